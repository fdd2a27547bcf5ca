"""The endpoints that change which models answer: the repository extension of the Open Inference Protocol, and ours."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from serving import process
from serving.http import bodies
from serving.http.context import context, models
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse
from serving.http.threads import run_in_thread
from serving.images.pixels import json_object
from serving.model import onnxfile
from serving.model.repository import Entry, ModelRepository
from serving.scheduling.engine import Engine
from serving.scheduling.models import Models
from xtrain.errors import XtrainError

NO_PARAMETERS = "a model is loaded as it lies in the repository, without parameters"


async def list_models(request: Request) -> Response:
    """Answer with the loaded models and the default one."""
    loaded = models(request)
    described = [
        {"name": engine.name, "version": engine.version, "sha256": engine.predictor.digest} for engine in loaded
    ]
    return JSONResponse({"default": loaded.default, "models": described})


async def index(request: Request) -> Response:
    """Answer with every model of the repository, and whether it is loaded; with `{"ready": true}` only the loaded."""
    content = await bodies.read(request, may_be_empty=True)
    only_ready = bool(json_object(content).get("ready")) if content else False
    return JSONResponse(await described(models(request), only_ready))


async def load(request: Request) -> Response:
    """Load all versions of a model of the repository, or load them anew; all or none."""
    content = await bodies.read(request, may_be_empty=True)
    if content and json_object(content).get("parameters"):
        raise HTTPError(422, NO_PARAMETERS)
    context(request).run_to_completion()
    await load_model(request.app, request.path_params["name"])
    return JSONResponse({})


async def unload(request: Request) -> Response:
    """Take all versions of a model out; requests that use it are answered first."""
    await bodies.read(request, may_be_empty=True)
    context(request).run_to_completion()
    await unload_model(request.app, request.path_params["name"])
    return JSONResponse({})


async def described(loaded: Models, only_ready: bool) -> list[dict[str, str]]:
    """Return name, version, state and reason of the repository's models, or of the loaded ones alone."""
    ready = {(engine.name, engine.version) for engine in loaded}
    entries = {(engine.name, engine.version): engine.entry for engine in loaded}
    if loaded.repository is not None and not only_ready:
        for entry in await run_in_thread(loaded.repository.entries):
            entries.setdefault((entry.name, entry.version), entry)
    return [
        {
            "name": name,
            "version": version,
            "state": "READY" if (name, version) in ready else "UNAVAILABLE",
            "reason": "" if (name, version) in ready else entry.fault or "unloaded",
        }
        for (name, version), entry in sorted(entries.items())
    ]


async def load_model(app: Starlette, name: str) -> None:
    """Load all versions of a model, or load them anew; all or none.

    Raises:
        HTTPError: 404, the repository has no such model; 422, one version cannot be loaded.
    """
    loaded: Models = app.state.models
    repository = _repository(loaded)
    async with loaded.lock:
        entries = [entry for entry in await run_in_thread(repository.entries) if entry.name == name]
        if not entries:
            raise HTTPError(404, "the repository has no model of this name")
        engines = await _make_all(loaded, entries)
        versions = {entry.version for entry in entries}
        gone = [engine for engine in loaded if engine.name == name and engine.version not in versions]
        replaced = [before for engine in engines if (before := loaded.put(engine)) is not None]
        _retire(app, [*replaced, *(engine for engine in gone if loaded.take_out(engine))])
        await _keep_selection(loaded)


async def unload_model(app: Starlette, name: str) -> None:
    """Take all versions of a model out; requests that use it are answered first.

    Raises:
        ModelNotFound: it is not loaded, or is the default one.
    """
    loaded: Models = app.state.models
    _repository(loaded)
    async with loaded.lock:
        _retire(app, loaded.remove(name))
        await _keep_selection(loaded)


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
    repository = _repository(loaded)
    async with loaded.lock:
        before = loaded.find()
        try:
            entry = await run_in_thread(lambda: repository.entry(path))
        except XtrainError as error:
            raise HTTPError(422, str(error)) from error
        (engine,) = await _make_all(loaded, [entry])
        replaced = [one for one in (loaded.put(engine),) if one is not None]
        loaded.default, loaded.default_version = engine.name, engine.version
        if loaded.replaces and loaded.take_out(before):
            replaced.append(before)
        _retire(request.app, replaced)
        await _keep_selection(loaded)
    return JSONResponse({"model": engine.name, "version": engine.version, "sha256": engine.predictor.digest})


async def reload_changed(app: Starlette) -> None:
    """Load the models anew whose files changed; where a file cannot be loaded, the model before it goes on answering.

    The operator is told of each.
    """
    loaded: Models = app.state.models
    async with loaded.lock:
        present = await run_in_thread(lambda: _present_entries(loaded))
        for before in loaded:
            try:
                entry = await run_in_thread(lambda: _changed(before, loaded, present))  # noqa: B023, run at once
                if entry is None:
                    continue
                (engine,) = await _make_all(loaded, [entry])
            except (OSError, XtrainError, HTTPError) as error:
                process.say(f"note: {before.entry.path}: not loaded ({error}); the model before goes on answering")
                continue
            replaced = [one for one in (loaded.put(engine),) if one is not None]
            if loaded.take_out(before):  # the new file has another name or version
                replaced.append(before)
                if loaded.default == before.name:
                    loaded.default, loaded.default_version = engine.name, None
            _retire(app, replaced)
            process.say(f"note: {entry.path}: {engine.name} version {engine.version} from now on")
        await run_in_thread(lambda: loaded.note_source(loaded.settings.model))
        await _keep_selection(loaded)


def _present_entries(loaded: Models) -> dict[tuple[str, str], Entry]:
    """Return the entries of a folder of models; none where the server was started with one file."""
    entries = [] if loaded.replaces else _repository(loaded).entries()
    return {(entry.name, entry.version): entry for entry in entries}


def _changed(engine: Engine, loaded: Models, present: dict[tuple[str, str], Entry]) -> Entry | None:
    """Return the entry of an engine's file as it is now; None if it has not changed.

    Raises:
        ModelFileError, OSError: it cannot be looked at.
    """
    entry = present.get((engine.name, engine.version)) or _repository(loaded).entry(str(engine.entry.path))
    return None if onnxfile.sha256(entry.path) == engine.predictor.digest else entry


async def to_the_end(app: Starlette, change: Coroutine[Any, Any, None]) -> None:
    """Wait for a change of the models; it goes on when whoever waits gives up."""
    task = asyncio.get_running_loop().create_task(change)
    app.state.retiring.add(task)  # the loop itself keeps no task alive
    task.add_done_callback(app.state.retiring.discard)
    await asyncio.shield(task)


def _repository(loaded: Models) -> ModelRepository:
    if loaded.repository is None:
        raise HTTPError(422, "this server has no folder of models")
    return loaded.repository


async def _make_all(loaded: Models, entries: list[Entry]) -> list[Engine]:
    """Return the engines of all entries.

    Raises:
        HTTPError: 422, one of them cannot be loaded; none of them is used.
    """
    engines = list[Engine]()
    try:
        loaded.check_memory(entries)
        for entry in entries:
            engines.append(await run_in_thread(lambda entry=entry: loaded.make(entry)))  # type: ignore[misc]
    except XtrainError as error:
        await asyncio.gather(*(engine.close() for engine in engines))
        raise HTTPError(422, str(error)) from error
    return engines


def _retire(app: Starlette, engines: Iterable[Engine]) -> None:
    """Close engines once their last requests are over."""
    loop, retiring = asyncio.get_running_loop(), app.state.retiring
    for engine in dict.fromkeys(engines):
        task = loop.create_task(engine.retire())
        retiring.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(retiring.discard)
        # A second later, when nothing refers to it any more.
        task.add_done_callback(lambda _: loop.call_later(1, process.freeze_garbage_collector))


async def _keep_selection(loaded: Models) -> None:
    """Write down what answers now; where the repository is read-only, a restart begins as the server was started."""
    if reason := await run_in_thread(loaded.keep_selection):
        process.say(f"note: what is served now is not kept for a restart: {reason}")
