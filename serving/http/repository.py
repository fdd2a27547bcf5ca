"""The endpoints that change which models answer: the repository extension of the Open Inference Protocol, and ours."""

import asyncio
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from serving import process
from serving.http import bodies
from serving.http.context import context, models
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse
from serving.http.threads import run_in_thread
from serving.images.pixels import json_object
from serving.model.repository import Entry, ModelRepository
from serving.scheduling.engine import Engine
from xtrain.errors import XtrainError


async def list_models(request: Request) -> Response:
    """Answer with the loaded models and the default one."""
    loaded = models(request)
    described = [
        {"name": engine.name, "version": engine.version, "sha256": engine.predictor.digest} for engine in loaded
    ]
    return JSONResponse({"default": loaded.default, "models": described})


async def index(request: Request) -> Response:
    """Answer with every model of the repository, and whether it is loaded; with `{"ready": true}` only the loaded."""
    loaded = models(request)
    content = await bodies.read(request, may_be_empty=True)
    only_ready = bool(json_object(content).get("ready")) if content else False
    ready = {(engine.name, engine.version) for engine in loaded}
    entries = {(engine.name, engine.version): engine.entry for engine in loaded}
    if loaded.repository is not None and not only_ready:
        for entry in await run_in_thread(loaded.repository.entries):
            entries.setdefault((entry.name, entry.version), entry)
    described = [
        {
            "name": name,
            "version": version,
            "state": "READY" if (name, version) in ready else "UNAVAILABLE",
            "reason": "" if (name, version) in ready else entry.fault or "unloaded",
        }
        for (name, version), entry in sorted(entries.items())
    ]
    return JSONResponse(described)


async def load(request: Request) -> Response:
    """Load all versions of a model of the repository, or load them anew; all or none."""
    name, loaded = request.path_params["name"], models(request)
    content = await bodies.read(request, may_be_empty=True)
    parameters = json_object(content).get("parameters") if content else None
    if parameters:
        raise HTTPError(422, "a model is loaded as it lies in the repository, without parameters")
    context(request).run_to_completion()
    repository = _repository(request)
    async with loaded.lock:
        entries = [entry for entry in await run_in_thread(repository.entries) if entry.name == name]
        if not entries:
            raise HTTPError(404, "the repository has no model of this name")
        engines = await _made(request, entries)
        _retire(request, [before for engine in engines if (before := loaded.put(engine)) is not None])
        await _keep(request)
    return JSONResponse({})


async def unload(request: Request) -> Response:
    """Take all versions of a model out; requests that use it are answered first."""
    loaded = models(request)
    await bodies.read(request, may_be_empty=True)
    context(request).run_to_completion()
    _repository(request)
    async with loaded.lock:
        _retire(request, loaded.remove(request.path_params["name"]))
        await _keep(request)
    return JSONResponse({})


async def swap(request: Request) -> Response:
    """Let another file of the repository answer as the default model, in place of the one before."""
    loaded = models(request)
    body = json_object(await bodies.read(request))
    context(request).run_to_completion()
    if "path" not in body:
        raise HTTPError(400, 'the body is not {"path": "M.onnx"}')
    path = body["path"]
    if not isinstance(path, str):
        raise HTTPError(422, "path is not a name")
    repository = _repository(request)
    async with loaded.lock:
        before = loaded.find()
        try:
            entry = await run_in_thread(lambda: repository.entry(path))
        except XtrainError as error:
            raise HTTPError(422, str(error)) from error
        (engine,) = await _made(request, [entry])
        replaced = loaded.put(engine)
        loaded.default = engine.name
        if replaced is not before:
            loaded.take_out(before)
        _retire(request, [one for one in (before, replaced) if one is not None])
        await _keep(request)
    return JSONResponse({"model": engine.name, "version": engine.version, "sha256": engine.predictor.digest})


def _repository(request: Request) -> ModelRepository:
    repository = models(request).repository
    if repository is None:
        raise HTTPError(422, "this server has no folder of models")
    return repository


async def _made(request: Request, entries: list[Entry]) -> list[Engine]:
    """Return the engines of all entries.

    Raises:
        HTTPError: 422, one of them cannot be loaded; none of them is used.
    """
    loaded, engines = models(request), list[Engine]()
    try:
        for entry in entries:
            engines.append(await run_in_thread(lambda entry=entry: loaded.make(entry)))  # type: ignore[misc]
    except XtrainError as error:
        await asyncio.gather(*(engine.close() for engine in engines))
        raise HTTPError(422, str(error)) from error
    return engines


def _retire(request: Request, engines: Iterable[Engine]) -> None:
    """Close engines once their last requests are over."""
    loop, retiring = asyncio.get_running_loop(), request.app.state.retiring
    for engine in dict.fromkeys(engines):
        task = loop.create_task(engine.retire())
        retiring.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(retiring.discard)
        # A second later, when nothing refers to it any more.
        task.add_done_callback(lambda _: loop.call_later(1, process.freeze_garbage_collector))
    request.app.state.metrics.on_models(models(request))


async def _keep(request: Request) -> None:
    """Write down what answers now; where the repository is read-only, a restart begins as the server was started."""
    if reason := await run_in_thread(models(request).keep_selection):
        process.say(f"note: what is served now is not kept for a restart: {reason}")
