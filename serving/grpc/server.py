"""The gRPC server: tokens, memory, deadlines, counters and the log around every call."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from starlette.applications import Starlette

from serving.grpc.inference import Inference
from serving.grpc.messages import SERVICE
from serving.http import errors
from serving.http.access import Access, Authorization
from serving.http.accesslog import AccessLog
from serving.http.errors import HTTPError
from serving.model.protobuf import fields
from serving.scheduling.batcher import Stopping
from serving.scheduling.memory import Reservation
from serving.settings import Settings
from serving.tracing import TRACING, describe

METHODS: dict[str, Access] = {
    "ServerLive": "open",
    "ServerReady": "open",
    "ModelReady": "token",
    "ServerMetadata": "token",
    "ModelMetadata": "token",
    "ModelInfer": "token",
    "RepositoryIndex": "token",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


RAW_INPUT_CONTENTS = 7  # number of that field of ModelInferRequest
MAX_FIELDS = 64 * 1024  # bytes of a message beside them; numbers become four or eight times as large


class Server:
    """A gRPC server that answers, and its calls."""

    def __init__(self, server: grpc.aio.Server, calls: "Calls") -> None:
        self._server, self._calls = server, calls

    async def stop(self, seconds: float) -> None:
        """Refuse new calls, end those whose message has not come, and wait so many seconds for those that run."""
        stopping = asyncio.ensure_future(self._server.stop(seconds))
        await asyncio.sleep(0)
        self._calls.end_receiving()
        await stopping


async def start(app: Starlette, settings: Settings) -> Server:
    """Return a server that answers at the settings' address.

    Raises:
        RuntimeError: it cannot be listened on.
    """
    calls = Calls(app, settings)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_batch_bytes),
            ("grpc.max_send_message_length", -1),
            # Workers share the port; two servers must not, and no one would know.
            ("grpc.so_reuseport", int(settings.worker_count > 1)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.server_handshake_timeout_ms", 10_000),
        ],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls.handlers()),))
    if settings.certificate is None:
        server.add_insecure_port(settings.grpc)
    else:
        chain = settings.certificate.read_bytes()
        key = (settings.key or settings.certificate).read_bytes()
        server.add_secure_port(settings.grpc, grpc.ssl_server_credentials([(key, chain)]))
    await server.start()
    return Server(server, calls)


class Calls:
    """Wraps the methods of `Inference`."""

    def __init__(self, app: Starlette, settings: Settings) -> None:
        """Make the handlers of an app.

        A call's message is received by its handler, after the token was checked, and only so many at a time: gRPC
        tells no message's size before it is whole, so this bounds what is not in the memory budget yet.
        """
        self.app, self.settings, self.inference = app, settings, Inference(app)
        self.receiving = asyncio.Semaphore(max(8, settings.memory_budget // settings.max_batch_bytes))
        self.log = AccessLog()
        self._stopping = asyncio.Event()

    def end_receiving(self) -> None:
        """End the calls that wait for their message."""
        self._stopping.set()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return gRPC's handlers by method."""
        return {
            method: grpc.stream_unary_rpc_method_handler(
                self._handler(method, access),
                response_serializer=self.inference.messages[f"{method}Response"].SerializeToString,
            )
            for method, access in METHODS.items()
        }

    def _handler(self, method: str, access: Access) -> Callable[[AsyncIterator[bytes], Any], Awaitable[Any]]:
        message_class = self.inference.messages[f"{method}Request"]
        words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method).lstrip("_")
        answer: Callable[[Any, float], Awaitable[Any]] = getattr(self.inference, words)

        async def handler(messages: AsyncIterator[bytes], call: Any) -> Any:
            began, status = time.perf_counter(), 499
            metadata = {key: value for key, value in call.invocation_metadata() if isinstance(value, str)}
            memory = self.app.state.budget.reservation()
            with TRACING.request_span(metadata) as span:
                try:
                    self._check_access(access, metadata.get("authorization", ""))
                    left = call.time_remaining()
                    seconds = self.settings.timeout if left is None else min(self.settings.timeout, left)
                    async with asyncio.timeout(seconds):
                        # Health, whose messages are empty, is answered whoever else is sending slowly.
                        request = message_class()
                        if message_class.DESCRIPTOR.fields:
                            request = await self._receive(messages, message_class, memory)
                        result = await answer(request, time.monotonic() + seconds)
                    status = 200
                    return result
                except (Exception, StopAsyncIteration) as error:
                    status, message = _describe(error)
                    if status == 500:
                        logging.getLogger(__name__).exception("a call failed", exc_info=error)
                    await call.abort(CODES[status], message)
                finally:
                    memory.release()
                    describe(span, f"grpc_{words}", "GRPC", status)
                    took = time.perf_counter() - began
                    self.app.state.metrics.requests.labels(f"grpc_{words}", str(status)).inc()
                    self.app.state.metrics.seconds.labels(f"grpc_{words}").observe(took)
                    self.log.add(
                        (metadata.get("x-request-id", "")[:128], ""), "GRPC", f"/{SERVICE}/{method}", status, took
                    )

        return handler

    async def _receive(self, messages: AsyncIterator[bytes], message_class: Any, memory: Reservation) -> Any:
        """Return the message of a call.

        Raises:
            MemoryExhausted: other requests have the memory.
            Stopping: the server stops before it came.
            HTTPError, DecodeError, StopAsyncIteration: it is none that can be parsed, or there is none.
        """
        async with self.receiving:
            receiving = asyncio.ensure_future(anext(messages))
            stopping = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait((receiving, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    raise Stopping("the server is stopping")
                content = await receiving
            finally:
                receiving.cancel()
                stopping.cancel()
        memory.reserve(2 * len(content))  # itself, and once more in the message
        check_message(content)
        return message_class.FromString(content)

    def _check_access(self, access: Access, header: str) -> None:
        """Refuse a call whose token does not admit it.

        Raises:
            HTTPError: 401, 429.
        """
        authorization: Authorization = self.app.state.authorization
        refusal = authorization.refuse(access, header)
        if refusal is not None:
            raise refusal.error()


def check_message(content: bytes) -> None:
    """Refuse a message whose parsing would take many times its bytes.

    Raises:
        HTTPError: 400 not a message; 413 more than `MAX_FIELDS` bytes beside the raw tensors.
    """
    if len(content) <= MAX_FIELDS:
        return
    try:
        raw = sum(
            value.stop - value.start
            for number, value in fields(content, slice(0, len(content)))
            if number == RAW_INPUT_CONTENTS and isinstance(value, slice)
        )
    except (ValueError, IndexError) as error:
        raise HTTPError(400, "the message is not readable") from error
    if len(content) - raw > MAX_FIELDS:
        raise HTTPError(413, "the values are too many for contents; send them as raw_input_contents")


def _describe(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status and the message of an error."""
    if isinstance(error, TimeoutError):
        return 504, "no answer within the server's timeout or the call's deadline"
    if isinstance(error, StopAsyncIteration):
        return 400, "the call has no message"
    if isinstance(error, DecodeError):
        return 400, "the message is not readable"
    assert isinstance(error, Exception)
    return errors.describe(error)
