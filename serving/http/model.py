"""The endpoints of the loaded model: its card, loading another one, and the metrics of the process."""

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from serving import process
from serving.http import bodies
from serving.http.context import context, engine
from serving.http.errors import HTTPError
from serving.http.metrics import Metrics
from serving.http.responses import JSONResponse
from serving.http.threads import run_in_thread
from serving.images.pixels import json_object
from serving.model.predictor import Predictor
from serving.model.repository import ModelRepository
from serving.scheduling.engine import Engine
from xtrain.errors import XtrainError


def load_model(app: Starlette, predictor: Predictor) -> None:
    """Make a warmed-up predictor the one that answers from now on."""
    metrics: Metrics = app.state.metrics
    app.state.engine = Engine(predictor, app.state.settings, metrics.on_batch)
    metrics.on_model(predictor.card.name, predictor.card.version, predictor.digest)


async def show_card(request: Request) -> Response:
    """Answer with the digest and the card of the model; without reference images and digests of rows."""
    predictor = engine(request).predictor
    return JSONResponse({"sha256": predictor.digest, **predictor.card.summary()})


async def swap_model(request: Request) -> Response:
    """Load another file of the model repository; requests under way are answered by the model before."""
    repository: ModelRepository | None = request.app.state.repository
    body = json_object(await bodies.read(request))
    context(request).run_to_completion()
    if "path" not in body:
        raise HTTPError(400, 'the body is not {"path": "M.onnx"}')
    name = body["path"]
    if repository is None or not isinstance(name, str):
        raise HTTPError(422, "path is not a name, or this server has no folder of models")
    async with request.app.state.swapping:
        before: Engine | None = request.app.state.engine
        try:
            predictor = await run_in_thread(lambda: repository.load(name))
        except XtrainError as error:
            raise HTTPError(422, str(error)) from error
        load_model(request.app, predictor)
        if before is not None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(before.retire())
            request.app.state.retiring.add(task)  # the loop itself keeps no task alive
            task.add_done_callback(request.app.state.retiring.discard)
            # A second later, when nothing refers to it any more.
            task.add_done_callback(lambda _: loop.call_later(1, process.freeze_garbage_collector))
    card = predictor.card
    return JSONResponse({"model": card.name, "version": card.version, "sha256": predictor.digest})


async def show_metrics(request: Request) -> Response:
    """Answer with the Prometheus metrics of this process."""
    metrics: Metrics = request.app.state.metrics
    loaded: Engine | None = request.app.state.engine
    metrics.waiting.set(loaded.waiting if loaded else 0)
    metrics.reserved.set(request.app.state.budget.reserved)
    return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")
