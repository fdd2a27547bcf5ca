"""The endpoints that run the model: `/v1/predict`, `/v1/classify`, `/v1/score`."""

import asyncio
import base64
import io
import time
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from serving.http import bodies, decoding, errors
from serving.http.context import context, engine
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse, as_floats
from serving.http.threads import run_in_thread
from serving.images.overlay import overlay
from serving.model.card import Card
from serving.model.submission import submission
from serving.scheduling.engine import Engine
from xtrain.images import MEDIA_TYPES

NPY, FORM = "application/x-npy", "multipart/form-data"
OVERLAY_SIDE = 512  # of the pictures that explain; what a screen shows, and a bound on the response


class _Options:
    """What is asked for beyond the probabilities: the `top` best classes, and an overlay that explains."""

    def __init__(self, card: Card, top: str | None, explain: str = "false") -> None:
        classes = len(card.classes)
        if top is not None and not (top.isascii() and top.isdigit() and len(top) < 10 and 1 <= int(top) <= classes):
            raise HTTPError(422, f"top={top[:20]} is not a number from 1 to {classes}")
        if explain.lower() not in ("true", "false", "1", "0"):
            raise HTTPError(422, "explain is true or false")
        self.top = int(top) if top else None
        self.explain = explain.lower() in ("true", "1")
        if self.explain and card.explain is None:
            raise HTTPError(422, "this model has no heatmap; export it with --explain, or leave explain out")


async def predict(request: Request) -> Response:
    """Answer with classes and probabilities of one image, of the files of a form, or of the rows of an array."""
    model, query = engine(request), request.query_params
    options = _Options(model.card, query.get("top"), query.get("explain", "false"))
    kind, _ = bodies.accepted(request)
    content = await bodies.read(request)
    if kind in MEDIA_TYPES:
        return _predictions(model, [await _predict_encoded(request, content, options)])
    if kind == FORM:
        parts = await bodies.files(request, content)
        if len(parts) == 1:
            return _predictions(model, [await _predict_encoded(request, parts[0].content, options, parts[0].name)])
        return _predictions(model, await _all(_predict_part(request, part, options) for part in parts))
    images = await bodies.run_off_loop(len(content), lambda: bodies.array(content, model.card.shape))
    return _predictions(model, await _predict_array(request, images, options))


async def classify(request: Request) -> Response:
    """Answer with classes and probabilities of pixels as JSON: `{"images": (N, H, W, C) nested, "top": n}`."""
    model = engine(request)
    body, pixels = await decoding.parse(request, await bodies.read(request))
    images, top = bodies.check_images(bodies.required(pixels), model.card.shape), body.get("top")
    options = _Options(model.card, None if top is None else str(top)[:20])
    return _predictions(model, await _predict_array(request, images, options))


async def classify_array(model: Engine, images: NDArray[np.uint8], top: int | None, timeout: float) -> dict[str, Any]:
    """Return what `/v1/classify` answers for images (N, H, W, C), outside of a request.

    Raises:
        HTTPError: 422 another `top` than 1 to the number of classes.
    """
    options = _Options(model.card, None if top is None else str(top))
    probabilities = await model.predict(images, time.monotonic() + timeout)
    return _answer(model, _ranked(model.card, probabilities, options))


async def score(request: Request) -> Response:
    """Answer with the Kaggle CSV of all images of an `.npz` or `.npy`."""
    model, current = engine(request), context(request)
    limit = bodies.accepted(request)[1].max_bytes(request.app.state.settings)
    content = await bodies.read(request)
    reserve = current.memory.reserve
    images = await bodies.run_off_loop(len(content), lambda: bodies.archive(content, model.card.shape, limit, reserve))
    text = submission(await model.predict(images, current.deadline))  # whole before the first byte leaves
    return Response(text, media_type="text/csv", headers=_model_headers(model))


async def _predict_encoded(
    request: Request, content: bytes, options: _Options, name: str | None = None
) -> dict[str, Any]:
    """Return the prediction of one encoded image."""
    model, deadline = engine(request), context(request).deadline
    pixels, image = await decoding.decode(request, content, OVERLAY_SIDE if options.explain else 0)
    named = {"name": name} if name is not None else {}
    if image is None:
        (prediction,) = _ranked(model.card, await model.predict(pixels[None], deadline), options)
        return {**named, **prediction}
    probabilities, (heatmap,) = await model.predict_and_explain(pixels[None], deadline)
    (prediction,) = _ranked(model.card, probabilities, options)
    return {**named, **prediction, "heatmap": await run_in_thread(lambda: _overlay_png(image, heatmap))}


async def _all(predictions: Iterable[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return all results, computed side by side; when one fails, or the request is cancelled, all others end."""
    tasks = [asyncio.ensure_future(prediction) for prediction in predictions]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _predict_part(request: Request, part: bodies.Part, options: _Options) -> dict[str, Any]:
    """Return the prediction of one file among several, or its error; an error of the server fails the request."""
    try:
        return await _predict_encoded(request, part.content, options, part.name)
    except tuple(errors.STATUS) as error:
        status, message = errors.describe(error)
        if status >= 429:
            raise
        return {"name": part.name, "error": errors.error_object(status, message)}


async def _predict_array(request: Request, images: NDArray[np.uint8], options: _Options) -> list[dict[str, Any]]:
    """Return the predictions of an array's rows."""
    model, deadline = engine(request), context(request).deadline
    if not options.explain:
        return _ranked(model.card, await model.predict(images, deadline), options)
    probabilities, heatmaps = await model.predict_and_explain(images, deadline)
    pictures = [Image.fromarray(pixels.squeeze()) for pixels in images]
    overlays = [await run_in_thread(partial(_overlay_png, *pair)) for pair in zip(pictures, heatmaps, strict=True)]
    ranked = _ranked(model.card, probabilities, options)
    return [{**prediction, "heatmap": png} for prediction, png in zip(ranked, overlays, strict=True)]


def _overlay_png(image: Image.Image, heatmap: NDArray[np.float32]) -> str:
    """Return the image under its heatmap as a base64 PNG."""
    buffer = io.BytesIO()
    overlay(image, heatmap).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _ranked(card: Card, probabilities: NDArray[np.float32], options: _Options) -> list[dict[str, Any]]:
    """Return each image's best class, the next ones where they are asked for, and all probabilities."""
    labels = card.classes
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top or 1].tolist()
    predictions = []
    for order, values in zip(orders, as_floats(probabilities), strict=True):
        ranked = [{"class": index, "label": labels[index], "probability": values[index]} for index in order]
        more = {"top": ranked} if options.top else {}
        predictions.append({**ranked[0], **more, "probabilities": values})
    return predictions


def _predictions(model: Engine, predictions: list[dict[str, Any]]) -> Response:
    return JSONResponse(_answer(model, predictions))


def _answer(model: Engine, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    identity = {"model": model.name, "version": model.version, "sha256": model.predictor.digest}
    return {**identity, "predictions": predictions}


def _model_headers(model: Engine) -> dict[str, str]:
    """Return which model answered, for a body that has no place for it; header values are Latin-1."""
    name = model.name.encode("ascii", "replace").decode()
    return {"X-Model": name if name.isprintable() else "model", "X-Model-SHA256": model.predictor.digest}
