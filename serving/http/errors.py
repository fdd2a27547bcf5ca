"""Error responses: one shape, one table of status codes."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.http.responses import JSONResponse
from serving.images.pixels import UnreadableJSON, WrongPixels
from serving.images.pool import DecodingLate
from serving.scheduling.batcher import DeadlinePassed, QueueFull, Stopping
from serving.scheduling.memory import MemoryExhausted
from serving.scheduling.models import ModelNotFound, NoModel
from xtrain.images import ImageTooLarge, UnreadableImage, UnsupportedImage

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
    UnreadableJSON: 400,
    WrongPixels: 422,
    QueueFull: 429,
    MemoryExhausted: 429,
    ModelNotFound: 404,
    NoModel: 503,
    Stopping: 503,
    DeadlinePassed: 504,
    DecodingLate: 504,
}


class HTTPError(Exception):
    """A response other than 200, with the message that the client reads."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def describe(error: Exception) -> tuple[int, str]:
    """Return status and message of an error; 500 and no details for one that is not in the table."""
    if isinstance(error, HTTPError):
        return error.status, error.message
    status = STATUS.get(type(error), 500)
    return status, str(error) if status != 500 else "the model failed on this request; the server's log has more"


def error_object(status: int, message: str) -> dict[str, str]:
    """Return `code` and `message`."""
    return {"code": CODES[status], "message": message}


def error_response(request: Request, error: Exception) -> Response:
    """Return the error as JSON, with the status and the headers that go with it.

    `{"error": {"code", "message", "request_id"}}`, and below `/v2` `{"error": "message"}`.
    """
    status, message = describe(error)
    request_id = request.scope["context"].id
    content: Mapping[str, Any] = {"error": {**error_object(status, message), "request_id": request_id}}
    if request.scope["path"].startswith("/v2"):  # the Open Inference Protocol's shape; the id is in the header
        content = {"error": message}
    # The id here too: the response to an unforeseen error is made outside of the middleware that adds it.
    headers = {"X-Request-ID": request_id}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPError):
        headers |= error.headers
    if isinstance(error, QueueFull | MemoryExhausted):
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse(content, status, headers)
