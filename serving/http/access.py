"""Around every request: its id, whether it may pass, its figures, and its line in the log."""

import hashlib
import hmac
import time
import uuid
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.app import errors
from serving.http.accesslog import AccessLog
from serving.http.errors import HTTPError
from serving.http.metrics import Telemetry
from xtrain.errors import ConfigError

OPEN = ("/v2/health/", "/metrics", "/v1/openapi.json")


class Tokens:
    """Bearer tokens, of which any opens the door, so that a new one can be handed out before the old one goes.

    Only digests are kept, and every one is compared, in constant time.
    """

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """One a line; empty lines and those that start with # do not count.

        Raises:
            ConfigError: unreadable, without a token, or with one that no header can carry.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: tokens cannot be read ({error})") from error
        tokens = [line for line in lines if line and not line.startswith("#")]
        if not tokens or not all(token.isascii() and token.isprintable() and " " not in token for token in tokens):
            raise ConfigError(f"{path}: needs at least one token, one a line, of printable ASCII without spaces")
        return cls(tokens)

    def accept(self, header: str) -> bool:
        """Whether an `Authorization` header carries one of them."""
        scheme, _, token = header.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


class Access:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, tokens: Tokens | None, admins: Tokens | None = None) -> None:
        self.app, self.telemetry, self.tokens, self.admins = app, telemetry, tokens, admins
        self.log = AccessLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it, and take down what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identifier = scope["request_id"] = _request_id(headers)
        began, status = time.perf_counter(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = identifier
            await send(message)

        path: str = scope["path"]
        try:
            needed = self._needed(scope["method"], path, headers.get("authorization", ""))
            if needed:
                self.telemetry.rejected.labels(errors.CODES[401]).inc()
                refusal = HTTPError(401, f"{needed} is needed; send the header Authorization: Bearer TOKEN")
                await errors.answer(Request(scope), refusal)(scope, receive, watch)
            else:
                await self.app(scope, receive, watch)
        finally:
            if engine := scope.pop("engine", None):
                engine.release()
            if share := scope.pop("share", None):
                share.give_back()
            seconds = time.perf_counter() - began
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self.telemetry.requests.labels(route, str(status)).inc()
            self.telemetry.seconds.labels(route).observe(seconds)
            self.log.add(identifier, scope["method"], path, status, seconds)

    def _needed(self, method: str, path: str, header: str) -> str | None:
        """What the request lacks, None if it may pass."""
        admin = self.admins is not None and self.admins.accept(header)
        if path == "/v1/model" and method == "POST":
            return None if admin else "an admin's bearer token"
        if self.tokens is None or path.startswith(OPEN) or admin or self.tokens.accept(header):
            return None
        return "a bearer token"


def _request_id(headers: Headers) -> str:
    """The client's `X-Request-ID` if it is printable and short, else a new one."""
    given = headers.get("x-request-id", "")
    if 0 < len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
