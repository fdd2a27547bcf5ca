"""The BentoML service: its health, lifecycle and packing around the app of `http`.

`bentoml serve serving.service:Classifier` makes the service when it asks for `Classifier`, with the settings of the
environment (`XTRAIN_MODEL`, `XTRAIN_DEVICE`, `XTRAIN_MAX_BATCH`, …); `xserve` sets them. Importing has no effect.
"""

import asyncio
import os
import time
from contextlib import suppress
from functools import cache
from typing import Any

import bentoml
import numpy as np
import yaml
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import process, signals
from serving.healthcheck import ADDRESS
from serving.http import bodies, connection
from serving.http.access import Authorization
from serving.http.app import create_app
from serving.http.openapi import PAGE
from serving.http.predict import classify_array
from serving.launch import check_certificate, check_workers, grpc_address
from serving.scheduling.models import Models
from serving.settings import Settings
from serving.tracing import TRACING
from serving.workers.changes import Changes
from serving.workers.peers import Peers, shared_folder
from xtrain.errors import OutputError, XtrainError
from xtrain.options import from_environment

RETRY = 2.0  # seconds until a worker that could not load its models ends, and the supervisor starts another one


class NoTimeout(float):
    """A number of seconds that BentoML's schema takes, and that its app takes for none.

    BentoML's own timeout would answer in another shape. It also keeps a timer a request until the time is over,
    answered or not, and until then a request whose client left, so that a server could not stop.
    """

    def __bool__(self) -> bool:
        """Return that this is none."""
        return False


class RoutesMiddleware:
    """The app in front of BentoML's own routes: mounted behind them it answers a quarter fewer requests a second."""

    def __init__(self, bentoml_app: ASGIApp, app: Starlette) -> None:
        self.bentoml_app, self.app, self.page = bentoml_app, app, HTMLResponse(PAGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is below /v1, /v2 and /ui, /metrics and the Swagger page; pass the rest on."""
        path = scope["path"] if scope["type"] == "http" else ""
        ours = path.startswith(("/v1/", "/v2", "/ui")) or path in ("/metrics", "/openapi.json")
        answer = self.app if ours else self.page if path in ("/", "/docs") else self.bentoml_app
        await answer(scope, receive, send)


def create_service(settings: Settings) -> Any:
    """Return a BentoML service for one server process, and set the process up for it.

    Args:
        settings: what to serve, and its limits.

    Raises:
        ConfigError: tokens, certificate, keys, an address of gRPC or a number of workers that cannot be used.
    """
    check_certificate(settings)
    check_workers(settings)
    grpc_address(settings)
    index, count = bentoml.server_context.worker_index or 1, settings.worker_count
    settings = settings.of_worker(index)
    peers = Peers(shared_folder(), index, count) if count > 1 else None
    # `bentoml build` writes the configuration down.
    yaml.SafeDumper.add_representer(NoTimeout, yaml.representer.SafeRepresenter.represent_float)
    process.limit_heap()
    process.allow_files(settings.max_connections)
    connection.install(settings.timeout, settings.max_connections)
    repository = settings.open_repository()
    app = create_app(settings, Authorization.read(settings), repository, peers)
    models: Models = app.state.models
    changes: Changes = app.state.changes

    @bentoml.service(
        name="xtrain",
        description="Image classification with one exported file. For research, not for diagnosis.",
        workers=count,
        traffic={"timeout": NoTimeout(settings.timeout)},
        # Request tracing is always on in BentoML and its largest single cost: 1.6-2.8 x the requests without.
        tracing={"excluded_urls": "v1,v2,metrics"},
        # Its metrics label the raw path, so that anybody can grow them; the app has its own at the same route.
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},  # the app writes its own, as JSON
    )
    class Classifier:
        """Loads the model once a worker; the routes are the app's."""

        grpc: Any = None

        def __init__(self) -> None:
            process.end_with_parent()
            signals.install(app, settings.drain)  # first: SIGHUP would end a process that still loads
            try:
                models.start(settings.model, process.say)
                changes.begin()
            except XtrainError as error:  # only where a file has changed since xserve looked at it
                process.say(f"error: worker {index}: {error}; trying again")
                time.sleep(RETRY)
                if peers is not None:
                    peers.remove_counters()  # there is nothing in them, and every try would leave some
                os._exit(1)
            app.state.metrics.on_models(models)
            TRACING.start()
            if settings.certificate is not None:
                connection.limit_handshakes(asyncio.get_running_loop(), min(connection.HANDSHAKE, settings.timeout))
            loop = asyncio.get_running_loop()
            self.starting = loop.create_task(self.start())
            self.background = [loop.create_task(job) for job in (changes.follow(), self.tell_peers())]
            process.freeze_garbage_collector()
            process.silence_access_log()
            if ADDRESS in os.environ and index == 1:  # started by xserve, and the socket is open by now
                names = ", ".join(dict.fromkeys(engine.name for engine in models))
                device = next(iter(models)).predictor.label
                workers = f"{count} workers; " if count > 1 else ""
                workers += "signed models only; " if settings.verify_key else ""
                process.say(f"{names} on {os.environ[ADDRESS]} ({device}; {workers}Ctrl-C stops it)")

        async def tell_peers(self) -> None:
            """Tell the other workers once a second what this one counts."""
            while peers is not None:
                with suppress(OutputError):  # a full disk; what was told before is told a while longer
                    peers.tell(status=app.state.metrics.status())
                await asyncio.sleep(1)

        async def start(self) -> None:
            """Start a decoder, so that nobody waits for it, and gRPC where it is wanted."""
            await app.state.decoders.start()
            if not settings.grpc:
                return
            from serving.grpc import server

            told = False
            while self.grpc is None:  # a worker that ended may hold the port for a moment; until then this is not ready
                try:
                    self.grpc = await server.start(app, settings)
                except (RuntimeError, OSError) as error:
                    if not told:
                        process.say(f"note: gRPC cannot listen on {settings.grpc} ({error}); trying again every second")
                    told = True
                    await asyncio.sleep(1)
            process.say(f"gRPC on {settings.grpc}")

        @bentoml.api(route="/v1/classify")  # type: ignore[untyped-decorator]
        async def classify(self, images: np.ndarray, top: int | None = None) -> dict[str, Any]:
            """Return classes and probabilities of images (N, H, W, C) uint8, with the `top` best classes of each.

            Declared for `bentoml.SyncHTTPClient`. Over HTTP the app's own route of this path answers, with its limits
            and its errors.
            """
            engine = models.find()
            checked = bodies.check_images(images, engine.card.shape)
            return await classify_array(engine, checked, top, settings.timeout)

        def __is_ready__(self) -> bool:
            return models.ready and (self.grpc is not None or not settings.grpc)

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def close(self) -> None:
            """Answer what is in flight, refuse what comes after."""
            tasks = [self.starting, *self.background]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if self.grpc is not None:
                await self.grpc.stop(settings.timeout)
            await models.close()
            await app.state.decoders.close()
            await asyncio.to_thread(TRACING.close)

    Classifier.add_asgi_middleware(RoutesMiddleware, app=app)  # type: ignore[attr-defined]
    return Classifier


@cache
def _environment_service() -> Any:
    return create_service(from_environment(Settings, os.environ))


def __getattr__(name: str) -> Any:
    """Make the service of the environment when BentoML asks for it (PEP 562)."""
    if name == "Classifier":
        return _environment_service()
    raise AttributeError(f"module 'serving.service' has no attribute {name!r}")
