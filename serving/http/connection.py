"""uvicorn's HTTP with an end to everything a client can leave open.

uvicorn itself waits for ever for the end of a head, keeps as much of it as comes, and holds an answer until it is read.
"""

import asyncio
import uuid

import orjson
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.app import errors

MAX_HEAD = 64 * 1024  # bytes of a request's line and headers, as in nginx; trailers and chunk extensions alike


class Bounded(HttpToolsProtocol):
    """One connection, closed when its client neither sends a request nor reads an answer for `seconds`."""

    seconds = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._patience: asyncio.TimerHandle | None = None  # for a request
        self._unread: asyncio.TimerHandle | None = None  # for an answer that does not leave
        self._moved = False  # whether the last bytes brought the end of a head, or some of a body
        self._useless = 0  # bytes that did not, in a row
        self._heading = False  # whether a head has begun
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse some bytes, unless they lead nowhere."""
        self._moved = False
        super().data_received(data)
        if self._moved:
            self._useless = 0
        else:
            self._useless += len(data)
        if self._useless > MAX_HEAD:
            self._refuse(431, f"the head of the request is longer than {MAX_HEAD} bytes")
        elif self._idle and self._patience is None and not self.transport.is_closing():
            self._wait()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._heading = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request has begun; its body has a deadline of its own."""
        self._moved, self._heading = True, False
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._moved = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of every other error."""
        self._refuse(400, "this is not HTTP")

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read enough."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.seconds, self._late)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _late(self) -> None:
        """The next request did not come; one that began to is told so."""
        self._patience = None
        if self._heading:
            self._refuse(408, f"the head of the request was not whole within {self.seconds:g} s")
        else:
            self.transport.close()

    def _await_reader(self, size: int) -> None:
        """Give the client time as long as it reads at all."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < size:
                self._await_reader(left)
            else:
                self.transport.abort()

        self._unread = self.loop.call_later(self.seconds, look)

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        if self._idle:  # otherwise it would be taken for the answer to the request before
            identifier = uuid.uuid4().hex
            self.logger.warning("refused before it was a request: %s (%s)", message, identifier)
            content = orjson.dumps({"error": {**errors.body(status, message), "request_id": identifier}})
            lines = ["content-type: application/json", f"content-length: {len(content)}", "connection: close"]
            head = "\r\n".join([*lines, f"x-request-id: {identifier}", "", ""])
            self.transport.write(STATUS_LINE[status] + head.encode() + content)
        self.transport.close()


def install(seconds: float) -> None:
    """Let uvicorn speak through it in this process.

    Args:
        seconds: without a request begun, a head ended or a byte read, after which a connection is closed.
    """
    Bounded.seconds = seconds
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Bounded.__name__}"
