"""The HTTP routes, as a plain ASGI app around a predictor; `service` mounts it on BentoML.

Every error has one shape, `{"error": {"code", "message", "request_id"}}`, and a client's mistake is never a 500.
"""

import json
import uuid
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.images import MEDIA_TYPES, ImageTooLarge, UnreadableImage, UnsupportedImage, decode
from serving.predictor import Predictor

MAX_BYTES = 16 * 1024 * 1024

STATUS = {UnreadableImage: 400, UnsupportedImage: 415, ImageTooLarge: 413}
CODES = {400: "unreadable", 405: "method_not_allowed", 413: "too_large", 415: "unsupported", 503: "not_ready"}


class HTTPError(Exception):
    """An answer other than 200, with the sentence the client reads."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def create_app(max_bytes: int = MAX_BYTES) -> Starlette:
    """Make the app; `app.state.predictor` is None until the model is loaded.

    Args:
        max_bytes: longest request body that is read.
    """
    app = Starlette(
        routes=[
            Route("/v1/predict", predict, methods=["POST"]),
            Route("/v1/model", model, methods=["GET"]),
        ],
        exception_handlers={HTTPError: _answer_error, HTTPException: _answer_starlette},
    )
    app.state.predictor = None
    app.state.max_bytes = max_bytes
    return app


async def predict(request: Request) -> Response:
    """One image as the raw body, its class and probabilities as JSON."""
    predictor = _predictor(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise HTTPError(
            415, f"content type {media_type or '(none)'} is not taken; send one of {', '.join(MEDIA_TYPES)}"
        )
    content = await _read_body(request)
    try:
        image = await run_in_threadpool(decode, content, predictor.card.shape)
    except tuple(STATUS) as error:
        raise HTTPError(STATUS[type(error)], str(error)) from error
    probabilities = (await run_in_threadpool(predictor.predict, image[None]))[0]
    best = int(probabilities.argmax())
    # float32 rounds to nine significant digits and back without loss.
    values = [float(f"{value:.9g}") for value in probabilities]
    prediction = {
        "class": best,
        "label": predictor.card.classes[best],
        "probability": values[best],
        "probabilities": values,
    }
    return JSONResponse({"model": predictor.card.name, "predictions": [prediction]})


async def model(request: Request) -> Response:
    """The card of the model that answers."""
    card: dict[str, Any] = asdict(_predictor(request).card)
    return JSONResponse(json.loads(json.dumps(card)))


def _predictor(request: Request) -> Predictor:
    predictor: Predictor | None = request.app.state.predictor
    if predictor is None:
        raise HTTPError(503, "the model is still loading; try again when /readyz answers 200")
    return predictor


async def _read_body(request: Request) -> bytes:
    """The body, refused as soon as it is longer than allowed, whatever Content-Length said."""
    limit: int = request.app.state.max_bytes
    too_large = HTTPError(413, f"the body is longer than {limit} bytes; send a smaller image")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    parts, length = [], 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            if length > limit:
                raise too_large
            parts.append(chunk)
    except ClientDisconnect as error:
        raise HTTPError(400, "the body ended before it was whole; send it again") from error
    if not length:
        raise HTTPError(400, "the body is empty; send the bytes of one image")
    return b"".join(parts)


async def _answer_starlette(request: Request, error: Exception) -> Response:
    """What the router refuses, such as another method, in the same shape as the rest."""
    assert isinstance(error, HTTPException)
    return await _answer_error(request, HTTPError(error.status_code, error.detail))


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    request_id = request.headers.get("x-request-id", "")
    if not (0 < len(request_id) <= 128 and request_id.isascii() and request_id.isprintable()):
        request_id = uuid.uuid4().hex
    content = {"code": CODES[error.status], "message": error.message, "request_id": request_id}
    return JSONResponse({"error": content}, error.status)
