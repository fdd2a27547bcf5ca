"""The HTTP routes, as a plain ASGI app around an engine; `service` mounts it on BentoML.

A client's mistake is never a 500, and every error has one shape (`errors`).
"""

import asyncio
import base64
import io
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route

from serving import process
from serving.http.app import bodies
from serving.http.app import errors
from serving.http.app import oip
from serving.http.app import openapi
from serving.http.access import Access, Tokens
from serving.http.responses import JSON, plain
from serving.model.card import Card
from serving.scheduling.engine import Engine, Limits, held
from serving.http.errors import HTTPError
from serving.images.decode import MAX_PIXELS, MEDIA_TYPES, ImageTooLarge, fit, picture
from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from serving.model.repository import Shelf
from serving.model.submission import submission
from serving.http.metrics import Telemetry
from xtrain.errors import XtrainError

NPY, FORM = "application/x-npy", "multipart/form-data"
ARRAYS = (NPY, "application/octet-stream", "application/zip", "application/x-npz")
MAX_SWAP_BYTES = 4096
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
SMALL_PIXELS = 64 * 64
OVERLAY_SIDE = 512  # of the pictures that explain; what a screen shows, and a bound on the answer


def create_app(
    limits: Limits | None = None, tokens: Tokens | None = None, admins: Tokens | None = None, shelf: Shelf | None = None
) -> Starlette:
    """Make the app; it answers 503 until `load` has given it a model.

    Args:
        limits: what it takes on.
        tokens: of which every request needs one; None for none.
        admins: tokens that may swap the model; None for nobody.
        shelf: where other models are; None for nowhere.
    """
    telemetry = Telemetry()
    app = Starlette(
        routes=[
            Route("/v1/predict", predict, methods=["POST"]),
            Route("/v1/classify", classify, methods=["POST"]),
            Route("/v1/score", score, methods=["POST"]),
            Route("/v1/model", model, methods=["GET"]),
            Route("/v1/model", swap, methods=["POST"]),
            Route("/v1/openapi.json", description, methods=["GET"]),
            *oip.routes(),
            Route("/v1/{path:path}", unknown, methods=METHODS),
            Route("/v2/{path:path}", unknown, methods=METHODS),
            Route("/metrics", metrics, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _answer_starlette,
            **dict.fromkeys((HTTPError, *errors.STATUS, Exception), _answer),
        },
        middleware=[Middleware(Access, telemetry=telemetry, tokens=tokens, admins=admins)],
    )
    app.state.limits, app.state.telemetry, app.state.engine = limits or Limits(), telemetry, None
    app.state.memory = bodies.Memory(app.state.limits.max_held_bytes)
    app.state.shelf, app.state.swapping, app.state.retiring = shelf, asyncio.Lock(), set()
    return app


def load(app: Starlette, predictor: Predictor) -> None:
    """Let a warmed-up predictor answer from now on."""
    telemetry: Telemetry = app.state.telemetry
    app.state.engine = Engine(predictor, app.state.limits, telemetry.on_batch)
    telemetry.on_model(predictor.card.name, predictor.card.version, predictor.digest)


async def predict(request: Request) -> Response:
    """Classes and probabilities of one image, of the files of a form, or of the rows of an array."""
    engine, options = held(request), _options(request)
    kind = bodies.media_type(request)
    limits = engine.limits
    if kind in MEDIA_TYPES:
        content = await bodies.read(request, limits.max_bytes, limits.timeout)
        return _predictions(engine, [await _one(request, engine, content, options)])
    if kind == FORM:
        content = await bodies.read(request, limits.max_batch_bytes, limits.timeout)
        parts = await bodies.files(request, content)
        if len(parts) == 1:
            return _predictions(engine, [await _one(request, engine, parts[0].content, options, parts[0].name)])
        answers = await asyncio.gather(*(_or_error(request, engine, part, options) for part in parts))
        return _predictions(engine, answers)
    if kind == NPY:
        content = await bodies.read(request, limits.max_batch_bytes, limits.timeout)
        images = await bodies.aside(len(content), lambda: bodies.array(content, engine.card.shape))
        return _predictions(engine, await _many(engine, images, options))
    raise HTTPError(
        415,
        f"content type {kind or '(none)'} is not taken; send one image as {', '.join(MEDIA_TYPES)}, "
        f"many as {FORM}, or an array as {NPY}",
    )


async def classify(request: Request) -> Response:
    """Classes and probabilities of pixels as JSON: `{"images": (N, H, W, C) nested, "top": n}`."""
    engine = held(request)
    if bodies.media_type(request) != "application/json":
        raise HTTPError(415, 'send {"images": [...]} as application/json, or an array to /v1/predict as npy')
    content = await bodies.read(request, bodies.MAX_JSON, engine.limits.timeout)

    def parsed() -> tuple[NDArray[np.uint8], Any]:
        given = bodies.fields(content)
        return bodies.check(bodies.numbers(given.get("images")), engine.card.shape), given.get("top")

    images, top = await bodies.aside(len(content), parsed)
    return JSON(await classified(engine, images, top))


async def classified(engine: Engine, images: NDArray[np.uint8], top: int | None = None) -> dict[str, Any]:
    """What is answered for images (N, H, W, C).

    Raises:
        HTTPError: 422 another `top` than 1 to the number of classes.
    """
    options = _Options(engine.card, None if top is None else str(top))
    return _answered(engine, await _many(engine, images, options))


async def description(request: Request) -> Response:
    """The OpenAPI document."""
    return JSON(openapi.describe(request.app.state.limits))


async def score(request: Request) -> Response:
    """The Kaggle CSV of all images of an `.npz` or `.npy`."""
    engine = held(request)
    kind = bodies.media_type(request)
    if kind not in ARRAYS:
        raise HTTPError(415, f"content type {kind or '(none)'} is not taken; send one of {', '.join(ARRAYS)}")
    limit = engine.limits.max_batch_bytes
    content = await bodies.read(request, limit, engine.limits.timeout)
    take = bodies.share(request).take
    images = await bodies.aside(len(content), lambda: bodies.archive(content, engine.card.shape, limit, take))
    text = submission(await engine.predict(images))  # whole before the first byte leaves
    return Response(text, media_type="text/csv", headers=_names(engine))


async def model(request: Request) -> Response:
    """The card of the model that answers, and its digest."""
    engine = held(request)
    return JSON({"sha256": engine.predictor.digest, **asdict(engine.card)})


async def swap(request: Request) -> Response:
    """Let another file answer: it is verified and warmed up beside the old one, which ends its requests first."""
    shelf: Shelf | None = request.app.state.shelf
    content = await bodies.read(request, MAX_SWAP_BYTES, request.app.state.limits.timeout)
    given = bodies.fields(content)
    if "path" not in given:
        raise HTTPError(400, 'the body is not {"path": "M.onnx"}')
    name = given["path"]
    if shelf is None or not isinstance(name, str):
        raise HTTPError(422, "path is not a name, or this server has no folder of models")
    async with request.app.state.swapping:
        old: Engine | None = request.app.state.engine
        try:
            predictor = await run_in_threadpool(shelf.take, name)
        except XtrainError as error:
            raise HTTPError(422, str(error)) from error
        load(request.app, predictor)
        if old is not None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(old.retire())
            request.app.state.retiring.add(task)  # the loop itself keeps no task alive
            task.add_done_callback(request.app.state.retiring.discard)
            task.add_done_callback(lambda _: loop.call_later(1, process.settle))  # when nothing holds it any more
    return JSON({"model": predictor.card.name, "version": predictor.card.version, "sha256": predictor.digest})


async def metrics(request: Request) -> Response:
    """Prometheus figures of this process."""
    telemetry: Telemetry = request.app.state.telemetry
    engine: Engine | None = request.app.state.engine
    telemetry.waiting.set(engine.waiting if engine else 0)
    telemetry.held.set(request.app.state.memory.taken)
    return PlainTextResponse(telemetry.text(), media_type="text/plain; version=0.0.4")


async def unknown(request: Request) -> Response:
    """Any other path below /v1 and /v2, and the right paths with the wrong method."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.methods and route.endpoint is not unknown:
            if route.matches(request.scope)[0] is Match.PARTIAL:
                allowed |= route.methods - {"HEAD"}
    if allowed:
        raise HTTPError(405, f"this path takes {' or '.join(sorted(allowed))}", {"Allow": ", ".join(sorted(allowed))})
    raise HTTPError(404, "there is nothing at this path; POST /v1/predict, POST /v1/score, GET /v1/model, or /v2")


class _Options:
    """What is asked for beyond the probabilities."""

    def __init__(self, card: Card, text: str | None, wish: str = "false") -> None:
        classes = len(card.classes)
        if text is not None and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= classes):
            raise HTTPError(422, f"top={text[:20]} is not a number from 1 to {classes}")
        wish = wish.lower()
        if wish not in ("true", "false", "1", "0"):
            raise HTTPError(422, "explain is true or false")
        self.top = int(text) if text else None
        self.explain = wish in ("true", "1")
        if self.explain and card.explain is None:
            raise HTTPError(422, "this model has no heatmap; export it with --explain, or leave explain out")


def _options(request: Request) -> _Options:
    query = request.query_params
    return _Options(held(request).card, query.get("top"), query.get("explain", "false"))


async def _one(
    request: Request, engine: Engine, content: bytes, options: _Options, name: str | None = None
) -> dict[str, Any]:
    """The prediction of one encoded image."""
    telemetry: Telemetry = request.app.state.telemetry
    try:
        # A small image is decoded sooner than a thread takes it over.
        image, pixels = _decode(telemetry, content, engine.card.shape, SMALL_PIXELS, options.explain)
    except ImageTooLarge:
        decoding = (content, engine.card.shape, MAX_PIXELS, options.explain)
        image, pixels = await run_in_threadpool(_decode, telemetry, *decoding)
    named = {"name": name} if name is not None else {}
    if image is None:
        (prediction,) = _ranked(engine, await engine.predict(pixels[None]), options)
        return {**named, **prediction}
    probabilities, (heatmap,) = await engine.explain(pixels[None])
    (prediction,) = _ranked(engine, probabilities, options)
    return {**named, **prediction, "heatmap": await run_in_threadpool(_drawn, image, heatmap)}


async def _or_error(request: Request, engine: Engine, part: bodies.Part, options: _Options) -> dict[str, Any]:
    """The prediction of one file among several, or what is wrong with it; the server's own troubles end them all."""
    try:
        return await _one(request, engine, part.content, options, part.name)
    except tuple(errors.STATUS) as error:
        status, message = errors.describe(error)
        if status >= 429:
            raise
        return {"name": part.name, "error": errors.body(status, message)}


async def _many(engine: Engine, images: NDArray[np.uint8], options: _Options) -> list[dict[str, Any]]:
    """The predictions of an array's rows."""
    if not options.explain:
        return _ranked(engine, await engine.predict(images), options)
    probabilities, heatmaps = await engine.explain(images)
    pictures = [Image.fromarray(pixels.squeeze()) for pixels in images]
    drawn = [await run_in_threadpool(_drawn, *pair) for pair in zip(pictures, heatmaps, strict=True)]
    ranked = _ranked(engine, probabilities, options)
    return [{**prediction, "heatmap": heatmap} for prediction, heatmap in zip(ranked, drawn, strict=True)]


def _decode(
    telemetry: Telemetry, content: bytes, shape: tuple[int, int, int], max_pixels: int, keep: bool
) -> tuple[Image.Image | None, NDArray[np.uint8]]:
    """The pixels of the model, and the picture to draw on where it is to be kept."""
    began = time.perf_counter()
    image = picture(content, max_pixels)
    pixels = fit(image, shape)
    if keep:
        image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    telemetry.decoded.observe(time.perf_counter() - began)
    return image if keep else None, pixels


def _drawn(image: Image.Image, heatmap: NDArray[np.float32]) -> str:
    """The overlay as a base64 PNG."""
    buffer = io.BytesIO()
    overlay(image, heatmap).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _ranked(engine: Engine, probabilities: NDArray[np.float32], options: _Options) -> list[dict[str, Any]]:
    """What is said of each image: its best class, the next ones where they are asked for, and all probabilities."""
    labels = engine.card.classes
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top or 1].tolist()
    found = []
    for order, values in zip(orders, plain(probabilities), strict=True):
        ranked = [{"class": index, "label": labels[index], "probability": values[index]} for index in order]
        more = {"top": ranked} if options.top else {}
        found.append({**ranked[0], **more, "probabilities": values})
    return found


def _predictions(engine: Engine, predictions: list[dict[str, Any]]) -> Response:
    return JSON(_answered(engine, predictions))


def _answered(engine: Engine, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {"model": engine.card.name, "version": engine.card.version, "sha256": engine.predictor.digest}
    return {**facts, "predictions": predictions}


def _names(engine: Engine) -> dict[str, str]:
    """What answered, for a body that has no place for it; header values are Latin-1."""
    name = engine.card.name.encode("ascii", "replace").decode()
    return {"X-Model": name if name.isprintable() else "model", "X-Model-SHA256": engine.predictor.digest}


async def _answer_starlette(request: Request, error: Exception) -> Response:
    """What the router refuses, such as another method, in the same shape as the rest."""
    assert isinstance(error, HTTPException)
    return await _answer(request, HTTPError(error.status_code, error.detail, error.headers))


async def _answer(request: Request, error: Exception) -> Response:
    telemetry: Telemetry = request.app.state.telemetry
    status, _ = errors.describe(error)  # an error that nobody foresaw is raised again by Starlette, for the log
    telemetry.rejected.labels(errors.CODES[status]).inc()
    return errors.answer(request, error)
