"""The endpoints that change which models answer: the repository extension of the Open Inference Protocol, and ours."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
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
from serving.scheduling.model_set import ModelSet
from serving.scheduling.models import ModelNotFound, Models
from serving.workers.changes import Changes
from xtrain.errors import OutputError, XtrainError

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
    changes: Changes = app.state.changes
    repository = _repository(changes.models)
    async with changes.exclusive() as served:
        entries = [entry for entry in await run_in_thread(repository.entries) if entry.name == name]
        if not entries:
            raise HTTPError(404, "the repository has no model of this name")
        versions = {entry.version for entry in entries}
        gone = [key for key in served.entries if key[0] == name and key[1] not in versions]
        await _make(changes, served.without(gone).loading(entries))


async def unload_model(app: Starlette, name: str) -> None:
    """Take all versions of a model out; requests that use it are answered first.

    Raises:
        ModelNotFound: it is not loaded, or is the default one.
    """
    changes: Changes = app.state.changes
    _repository(changes.models)
    async with changes.exclusive() as served:
        keys = [key for key in served.entries if key[0] == name]
        if not keys:
            raise ModelNotFound(f"{name} is not loaded")
        if name == served.default:
            raise ModelNotFound(f"{name} is the default model, which stays; make another one the default first")
        unloaded = served.unloaded | {served.entries[key].place for key in keys}
        await _make(changes, replace(served.without(keys), unloaded=unloaded))


async def swap(request: Request) -> Response:
    """Let another file of the repository answer as the default model, in place of the one before."""
    changes: Changes = request.app.state.changes
    loaded = changes.models
    body = json_object(await bodies.read(request))
    context(request).run_to_completion()
    if "path" not in body:
        raise HTTPError(400, 'the body is not {"path": "M.onnx"}')
    path = body["path"]
    if not isinstance(path, str):
        raise HTTPError(422, "path is not a name")
    repository = _repository(loaded)
    async with changes.exclusive() as served:
        before = loaded.find()
        try:
            entry = await run_in_thread(lambda: repository.entry(path))
        except XtrainError as error:
            raise HTTPError(422, str(error)) from error
        kept = served.without([(before.name, before.version)]) if loaded.replaces else served
        wanted = replace(kept.loading([entry]), default=entry.name, default_version=entry.version)
        made = await _make(changes, wanted)
    digest = made.digests[entry.name, entry.version]
    return JSONResponse({"model": entry.name, "version": entry.version, "sha256": digest, "workers": changes.workers})


async def reload_changed(app: Starlette) -> None:
    """Load the models anew whose files changed; where a file cannot be loaded, the model before it goes on answering.

    The operator is told of each.
    """
    changes: Changes = app.state.changes
    loaded = changes.models
    changed = failed = False
    async with changes.exclusive():
        present = await run_in_thread(lambda: _present_entries(loaded))
        for before in loaded:
            served = loaded.served()
            try:
                entry = await run_in_thread(lambda: _changed(before, loaded, present))  # noqa: B023, run at once
                if entry is None:
                    continue
                # The new file may have another name or version.
                wanted = served.without([(before.name, before.version)]).loading([entry])
                if served.default not in {name for name, _ in wanted.entries}:
                    wanted = replace(wanted, default=entry.name)
                await changes.make(wanted)
            except (OSError, XtrainError) as error:
                failed = True
                process.say(f"note: {before.entry.path}: not loaded ({error}); the model before goes on answering")
                continue
            changed = True
            process.say(f"note: {entry.path}: {entry.name} version {entry.version} from now on")
        if not failed:
            await run_in_thread(lambda: loaded.note_source(loaded.settings.model))
        if changed:
            await changes.keep()
        elif not failed and changes.is_first:
            process.say("note: SIGHUP: no file has changed")


def _present_entries(loaded: Models) -> dict[tuple[str, str], Entry]:
    """Return the entries of a folder of models; none where the server was started with one file."""
    entries = [] if loaded.replaces else _repository(loaded).entries()
    return {(entry.name, entry.version): entry for entry in entries}


def _changed(engine: Engine, loaded: Models, present: dict[tuple[str, str], Entry]) -> Entry | None:
    """Return the entry of an engine's file as it is now; None if it has not changed.

    Raises:
        ModelFileError, OSError: it cannot be looked at.
    """
    entry = present.get((engine.name, engine.version))
    if entry is None:
        # The file that the server was started with may be a link that leads to another one by now.
        is_source = engine.entry.path == loaded.source_path
        path = loaded.settings.model.resolve() if is_source else engine.entry.path
        entry = _repository(loaded).entry(str(path))
    return None if onnxfile.sha256(entry.path) == engine.predictor.digest else entry


async def to_the_end(app: Starlette, change: Coroutine[Any, Any, None]) -> None:
    """Wait for a change of the models; it goes on when whoever waits gives up."""
    task = asyncio.get_running_loop().create_task(change)
    app.state.changing.add(task)  # the loop itself keeps no task alive
    task.add_done_callback(app.state.changing.discard)
    await asyncio.shield(task)


def _repository(loaded: Models) -> ModelRepository:
    if loaded.repository is None:
        raise HTTPError(422, "this server has no folder of models")
    return loaded.repository


async def _make(changes: Changes, wanted: ModelSet) -> ModelSet:
    """Change the models.

    Raises:
        HTTPError: 422, one of them cannot be loaded; 503, the other workers cannot be told; nothing has changed.
    """
    try:
        return await changes.make(wanted)
    except OutputError as error:
        raise HTTPError(503, str(error)) from error
    except XtrainError as error:
        raise HTTPError(422, str(error)) from error
