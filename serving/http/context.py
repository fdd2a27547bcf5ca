"""What belongs to one request from its first byte to its last, and the middleware that enters and leaves it."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.accesslog import AccessLog
from serving.http.connection import DISCONNECT, DisconnectCallbacks
from serving.http.errors import HTTPError
from serving.http.metrics import Metrics
from serving.scheduling.batcher import LATE, DeadlinePassed
from serving.scheduling.engine import Engine
from serving.scheduling.memory import MemoryBudget, Reservation
from serving.scheduling.models import Models
from serving.tracing import TRACING, describe

MIN_RATE = 128 * 1024  # bytes a second of a body, below which its request is late: 64 MiB arrive over 10 Mbit/s
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.ASCII)
COUNTED_BYTES = MIN_RATE // 10  # of a body that move the deadline at a time
CLIENT_CLOSED = 499  # nginx's status of a request whose client left before the response; only ever logged


class RequestContext:
    """One request's id, engine, memory, deadline, and whether its client is still connected.

    Attributes:
        id: the client's `X-Request-ID` if it is printable and short, else a new one.
        memory: reserved of the memory budget.
        deadline: of `time.monotonic`, until when the response is due, decoding and drawing included.
        pixels: of the images that were decoded for it.
        decoding_large: held while one of its large images is decoded.
        disconnected: whether the client left before the response; the request is then cancelled.
        operation: name of the operation that answers, for metrics.
    """

    def __init__(self, identifier: str, memory: Reservation, timeout: float) -> None:
        self.id, self.memory, self.timeout = identifier, memory, timeout
        self.deadline = time.monotonic() + timeout
        self.pixels, self.decoding_large = 0, asyncio.Lock()
        self.disconnected = False
        self.operation = "none"
        self._engine: Engine | None = None
        self._on_disconnect: DisconnectCallbacks | None = None
        self._cancel: Callable[[], None] | None = None
        self._alarm: asyncio.Timeout | None = None
        self._body_received = False
        self._uncounted = 0  # bytes of the body that have not moved the deadline yet

    async def answered_in_time(self, answer: Awaitable[Response]) -> Response:
        """Return the response if it is ready before the deadline.

        Raises:
            HTTPError: 408, the body was not whole by then.
            DeadlinePassed: the response was not ready.
        """
        try:
            async with asyncio.timeout(self.timeout) as self._alarm:
                return await answer
        except TimeoutError as error:
            if self._body_received:
                raise DeadlinePassed(LATE) from error
            late = f"the body was not whole in {self.timeout:g} s and 1 s more a {MIN_RATE} bytes; send less at a time"
            raise HTTPError(408, late, {"Connection": "close"}) from error

    def extend(self, length: int) -> None:
        """Move the deadline by what so many bytes of a body may take to come, to the timeout from now at most."""
        self._uncounted += length
        if self._uncounted < COUNTED_BYTES:  # a tenth of a second; small requests need not pay for the timer
            return
        self._move_deadline(min(self.deadline + self._uncounted / MIN_RATE, time.monotonic() + self.timeout))
        self._uncounted = 0

    def _move_deadline(self, deadline: float) -> None:
        if self._alarm is not None and (when := self._alarm.when()) is not None:
            self._alarm.reschedule(when + deadline - self.deadline)
        self.deadline = deadline

    def run_to_completion(self) -> None:
        """Go on without a deadline, and when the client leaves."""
        self.response_complete()
        if self._alarm is not None:
            self._alarm.reschedule(None)

    def use(self, find: Callable[[], Engine]) -> Engine:
        """Return the engine of this request: the first one it used, whatever model is loaded meanwhile."""
        if self._engine is None:
            self._engine = find()
            self._engine.acquire()
        return self._engine

    def body_received(self, scope: Scope) -> None:
        """Cancel the request should its client disconnect before its response.

        The connection calls back (`connection`, by the scope's extension); under another server nothing is noticed.
        Waiting for ASGI's `http.disconnect` would do under any, but lets uvicorn read on: requests that a client
        pipelines would then fill the memory outside of the budget.
        """
        self._body_received = True
        handler = asyncio.current_task()
        self._on_disconnect = scope.get("extensions", {}).get(DISCONNECT)
        if self._on_disconnect is not None and self._cancel is None and handler is not None:
            self._cancel = partial(self._disconnect, handler)
            self._on_disconnect.add(self._cancel)

    def _disconnect(self, handler: "asyncio.Task[object]") -> None:
        self.disconnected = True
        handler.cancel()

    def response_complete(self) -> None:
        """Take no notice of a disconnect any more."""
        if self._on_disconnect is not None and self._cancel is not None:
            self._on_disconnect.discard(self._cancel)
            self._cancel = None

    def close(self) -> None:
        """Release the engine and the memory."""
        self.response_complete()
        if self._engine is not None:
            self._engine.release()
            self._engine = None  # an idle connection keeps its last request, and would keep a swapped-out model
        self.memory.release()


def context(request: Request) -> RequestContext:
    """Return the context of a request."""
    current: RequestContext = request.scope["context"]
    return current


def models(request: Request) -> Models:
    """Return the models of the app."""
    loaded: Models = request.app.state.models
    return loaded


def engine(request: Request) -> Engine:
    """Return the engine that answers a request from its beginning to its end.

    It is the one that the path names, or `?model=` and `?version=`, or the default one.

    Raises:
        NoModel: none is loaded yet.
        ModelNotFound: the one that is named is not.
    """

    def find() -> Engine:
        named = request.path_params or request.query_params
        return models(request).find(named.get("name" if request.path_params else "model"), named.get("version"))

    return context(request).use(find)


class RequestMiddleware:
    """ASGI middleware: enters a `RequestContext`, counts and logs every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, budget: MemoryBudget, timeout: float) -> None:
        self.app, self.metrics, self.budget, self.timeout = app, metrics, budget, timeout
        self.log = AccessLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; count and log it in any case."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        current = RequestContext(_request_id(headers), self.budget.reservation(), self.timeout)
        scope["context"] = current
        began, status = time.perf_counter(), 500

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current.id
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                current.response_complete()
            await send(message)

        with TRACING.request_span(headers) as span:
            try:
                await self.app(scope, receive, watched_send)
                if current.disconnected:
                    await asyncio.sleep(0)  # the cancellation came too late to be raised inside; it is raised here
            except asyncio.CancelledError:
                if not current.disconnected:
                    raise  # the server is stopping
                status = CLIENT_CLOSED
            finally:
                current.close()
                describe(span, current.operation, scope["method"], status)
                seconds = time.perf_counter() - began
                self.metrics.requests.labels(current.operation, str(status)).inc()
                self.metrics.seconds.labels(current.operation).observe(seconds)
                self.log.add((current.id, _trace_id(headers)), scope["method"], scope["path"], status, seconds)


def _request_id(headers: Headers) -> str:
    identifier = headers.get("x-request-id", "")
    if 0 < len(identifier) <= 128 and identifier.isascii() and identifier.isprintable():
        return identifier
    return uuid.uuid4().hex


def _trace_id(headers: Headers) -> str:
    """Return the trace's id of a `traceparent` header (W3C Trace Context, section 3.2), or an empty string."""
    match = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match[1] if match else ""
