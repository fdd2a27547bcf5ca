"""What a client is told when there is no answer: one shape, one table of status codes."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.http.responses import JSON
from serving.scheduling.batcher import DeadlinePassed, QueueFull, Stopping
from serving.images.decode import ImageTooLarge, UnreadableImage, UnsupportedImage

CODES = {
    400: "unreadable",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_late",
    413: "too_large",
    415: "unsupported",
    422: "wrong_input",
    429: "queue_full",
    431: "too_large",
    500: "internal",
    503: "not_ready",
    504: "deadline_passed",
}
STATUS: dict[type[Exception], int] = {
    UnreadableImage: 400,
    UnsupportedImage: 415,
    ImageTooLarge: 413,
    QueueFull: 429,
    Stopping: 503,
    DeadlinePassed: 504,
}


class HTTPError(Exception):
    """An answer other than 200, with the sentence the client reads."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def describe(error: Exception) -> tuple[int, str]:
    """Status and message of an error; 500 and no details for one that nobody foresaw."""
    if isinstance(error, HTTPError):
        return error.status, error.message
    status = STATUS.get(type(error), 500)
    return status, str(error) if status != 500 else "the model failed on this request; the server's log has more"


def body(status: int, message: str) -> dict[str, str]:
    """`code` and `message`."""
    return {"code": CODES[status], "message": message}


def answer(request: Request, error: Exception) -> Response:
    """`{"error": {"code", "message", "request_id"}}` with the status, and the header that says what would help."""
    status, message = describe(error)
    content: Mapping[str, Any] = {"error": {**body(status, message), "request_id": request.scope["request_id"]}}
    # The header too: the answer to an error that nobody foresaw is made outside of the middleware that adds it.
    headers = {"X-Request-ID": request.scope["request_id"]}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPError):
        headers |= error.headers
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_after)
    return JSON(content, status, headers)
