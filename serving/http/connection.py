"""uvicorn's HTTP connection with a limit on everything that a client can leave open.

uvicorn itself waits for ever for the end of a head, buffers as much of it as comes, and keeps a response until it is
read.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import httptools
import orjson
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http import errors

DISCONNECT = "xtrain.disconnect"  # the scope's extension with the connection's `DisconnectCallbacks`
ALWAYS_ANSWERED = {b"/livez", b"/readyz", b"/healthz", b"/metrics", b"/v2/health/live", b"/v2/health/ready"}
MAX_HEAD = 64 * 1024  # bytes of a request's line and headers, as in nginx; trailers and chunk extensions alike
RESERVE = 256  # connections beyond `most` at a time, for health and metrics; more are ended at once
HANDSHAKE = 10.0  # seconds that a TLS handshake may take, at most `--timeout`
LINGER = 5.0  # seconds of silence after which a client that has its answer is taken to be done with its body


class _DroppingTransport:
    """A transport that drops what is written after its client has gone, and closes as its connection wants.

    uvloop raises RuntimeError for a write in the moment between the end of the connection and the call of
    `connection_lost`, which would be logged as an error of the app.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport, self.close = transport, close
        # What uvicorn calls with every request, without the detour of __getattr__.
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_write_buffer_size = transport.get_write_buffer_size

    def write(self, data: bytes) -> None:
        """Write, or drop."""
        if not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class DisconnectCallbacks:
    """Functions of the requests under way on one connection, called when its client is gone."""

    def __init__(self, connection: "BoundedConnection") -> None:
        self._connection = connection
        self._callbacks: set[Callable[[], None]] = set()

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client is gone; its request must have been read to the end."""
        self._callbacks.add(callback)
        # uvicorn may have stopped reading at the end of a large body, and would not see the end of the connection.
        # Where another request is waiting it reads no further: its bodies are in no memory budget yet.
        if not self._connection.pipeline:
            self._connection.flow.resume_reading()

    def discard(self, callback: Callable[[], None]) -> None:
        """Forget `callback`."""
        self._callbacks.discard(callback)

    def call(self) -> None:
        """Call all of them."""
        for callback in list(self._callbacks):
            callback()


class BoundedConnection(HttpToolsProtocol):
    """One connection, closed when its client neither sends a request nor reads a response for `seconds`."""

    seconds = 30.0
    most = 1024  # connections; those beyond are asked for health and metrics alone
    established: ClassVar["dict[BoundedConnection, None]"] = {}  # of this process, the longest without a request first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        self._socket = transport
        super().connection_made(cast(asyncio.Transport, _DroppingTransport(transport, self._close)))
        self._request_timer: asyncio.TimerHandle | None = None  # until the next request
        self._reader_timer: asyncio.TimerHandle | None = None  # until the client reads
        self._progressed = False  # whether the last bytes completed a head or belong to a body
        self._head_bytes = 0  # bytes that did not, since the last that did
        self._in_head = False  # whether a head has begun
        self._in_body = False  # whether a body has not come to its end
        self._lingering: asyncio.TimerHandle | None = None  # after `_close`, until a client must have read its answer
        self._draining: asyncio.TimerHandle | None = None  # after an answer, until the body must have ended
        self._on_disconnect = DisconnectCallbacks(self)
        self._refused = False  # whether it is refused for being one too many
        self.established[self] = None
        self._is_surplus = len(self.established) > self.most and not self._make_room()
        if len(self.established) > self.most + RESERVE:
            transport.abort()
        self._start_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, and the requests that are under way."""
        self._stop_request_timer()
        self.resume_writing()
        self.established.pop(self, None)
        for timer in (self._lingering, self._draining):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._on_disconnect.call()

    def data_received(self, data: bytes) -> None:
        """Parse some bytes, unless they make a head too long."""
        if self._lingering is not None:
            self._linger()
            return
        self._progressed = False
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offer:
                data = self._without_upgrade(data[offer.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response("")
                return
        if self._refused:
            self._refuse(503, f"the server has more than {self.most} connections; try again in a second")
            return
        if self._progressed:
            self._head_bytes = 0
        else:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD and self._in_body:  # of trailers, or of a chunk's extensions
            self._socket.close()
        elif self._head_bytes > MAX_HEAD:
            self._refuse(431, f"the head of the request is longer than {MAX_HEAD} bytes")
        elif self._idle and self._request_timer is None and not self.transport.is_closing():
            self._start_request_timer()

    def on_message_begin(self) -> None:
        """Note the first byte of a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the timer; the body has a deadline of its own."""
        self._progressed, self._in_head, self._in_body = True, False, True
        self._stop_request_timer()
        if self.parser.should_upgrade():
            return  # the request begins once its head is parsed again, without the offer
        self.established[self] = self.established.pop(self, None)  # to the end
        is_health = self.url.partition(b"?")[0] in ALWAYS_ANSWERED
        if self._is_surplus and len(self.established) > self.most and not is_health:
            self._refused = True  # once what has come of it is parsed
            return
        super().on_headers_complete()
        self.scope.setdefault("extensions", {})[DISCONNECT] = self._on_disconnect  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Note that some of a body came; what comes after the answer is dropped, for a while."""
        self._progressed = True
        if self._refused:
            return
        if self._draining is None and self._idle:
            self._draining = self.loop.call_later(self.seconds, self._socket.abort)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._progressed, self._in_body = True, False
        if self.parser.should_upgrade():
            return
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if self._refused:
            return
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the shape of every other error, once the requests before it are answered."""
        if self._may_answer:
            self._refuse(400, "this is not HTTP")
        else:
            self.cycle.keep_alive = False
            self._socket.pause_reading()

    def shutdown(self) -> None:
        """End the connection for a server that stops: at once if no request is being answered."""
        if self._idle:
            self._socket.close()
        else:
            super().shutdown()

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return the head that was just parsed without its offer of another protocol, and what follows it.

        The parser takes what follows for the other protocol: Java's HttpClient offers h2c with its first request, and
        its body was lost. A server may ignore the offer (RFC 9110, section 7.8). What follows is told by the parser
        itself: whoever looked for the header in the bytes could be made to take a body for the next request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._in_body = False
            self._refuse(400, "CONNECT is not taken")
            return b""
        lines = [
            b"%s: %s" % (name, _without_offer(value) if name == b"connection" else value)
            for name, value in self.headers  # whose names uvicorn has in lower case
            if name not in (b"upgrade", b"http2-settings")
        ]
        version = self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join([b"%s %s HTTP/%s" % (method, self.url, version), *lines, b"", b""]) + rest

    def pause_writing(self) -> None:
        """Start the timer of a client that does not read as fast as it is written to."""
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Cancel that timer."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _may_answer(self) -> bool:
        """Whether an answer from here would be that of the request that is being read, and the only one."""
        return self._idle or (self._in_body and not self.pipeline and not self.cycle.response_started)

    def _make_room(self) -> bool:
        """Close the connection that is longest without a request, one that has begun a head last.

        Returns:
            Whether there was one; this one, and those whose request is under way, are not closed.
        """
        idle = [connection for connection in self.established if connection is not self and connection._idle]
        chosen = next((connection for connection in idle if not connection._in_head), idle[0] if idle else None)
        if chosen is None:
            return False
        chosen._socket.close()
        self.established.pop(chosen)
        return True

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(self.seconds, self._request_late)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _request_late(self) -> None:
        """Close a connection without a request; one whose head is not whole is answered with 408."""
        self._request_timer = None
        if self._in_head:
            self._refuse(408, f"the head of the request was not whole within {self.seconds:g} s")
        else:
            self.transport.close()

    def _await_reader(self, size: int) -> None:
        """Close the connection unless the client has read something by the next look."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < size:
                self._await_reader(left)
            else:
                self.transport.abort()

        self._reader_timer = self.loop.call_later(self.seconds, look)

    def _close(self) -> None:
        """Close the connection, so that a client that is still sending gets its answer first.

        Closing a socket with unread bytes resets the connection, and the answer is lost with it (RFC 9112, section
        9.6). So only the sending half is closed, and what comes is dropped for a while, as nginx does.
        """
        if not self._in_body or self._socket.is_closing():
            self._socket.close()
        elif self._lingering is None:
            self._linger_end = self.loop.time() + self.seconds
            self._linger()
            if self._socket.can_write_eof():
                self._socket.write_eof()
            self._socket.resume_reading()

    def _linger(self) -> None:
        """Wait on for the end of a client that is still sending."""
        if self._lingering is not None:
            self._lingering.cancel()
        seconds = max(0.0, min(LINGER, self._linger_end - self.loop.time()))
        self._lingering = self.loop.call_later(seconds, self._socket.abort)

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        if self._may_answer:  # otherwise it would be taken for the response to the request before
            identifier = uuid.uuid4().hex
            self.logger.warning("refused before it was a request: %s (%s)", message, identifier)
            content = orjson.dumps({"error": {**errors.error_object(status, message), "request_id": identifier}})
            lines = ["content-type: application/json", f"content-length: {len(content)}", "connection: close"]
            head = "\r\n".join([*lines, f"x-request-id: {identifier}", "", ""])
            self.transport.write(STATUS_LINE[status] + head.encode() + content)
            self.transport.close()
        else:
            self._socket.close()


def _without_offer(value: bytes) -> bytes:
    """Return the value of a Connection header without what belongs to an offer."""
    words = [word.strip() for word in value.split(b",")]
    return b", ".join(word for word in words if word.lower() not in (b"upgrade", b"http2-settings"))


def limit_handshakes(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Close a connection whose TLS handshake takes longer; called before uvicorn listens.

    Until then it is no connection of `BoundedConnection`, and uvicorn, which has no option for it, waits a minute.
    """
    loop.create_server = partial(loop.create_server, ssl_handshake_timeout=seconds)  # type: ignore[method-assign]


def install(seconds: float, most: int) -> None:
    """Make uvicorn use it for every connection of this process.

    Args:
        seconds: without a request begun, a head completed or a byte read, after which a connection is closed.
        most: connections at a time; for one more, the one that is longest without a request is closed.
    """
    BoundedConnection.seconds, BoundedConnection.most = seconds, most
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedConnection.__name__}"
