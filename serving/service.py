"""The BentoML service: its health, lifecycle and packing around the app of `http`.

The model's path comes in `XTRAIN_MODEL`, the device in `XTRAIN_DEVICE`, the limits in `XTRAIN_MAX_BATCH` and the like
(`Limits.from_environment`), files of bearer tokens in `XTRAIN_TOKENS` and `XTRAIN_ADMIN_TOKENS`;
`xserve` sets them all. Other models are swapped in from the model's own folder.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import process
from serving.http.app import bodies
from serving.http.app import connection as protocol
from serving.http.access import Tokens
from serving.scheduling.engine import Limits
from serving.http.app import classified, create_app, load
from serving.http.openapi import PAGE
from serving.model.predictor import Predictor
from serving.model.repository import Shelf

DEFAULT_MODEL = "/models/model.onnx"  # where a container finds it mounted


def _tokens(variable: str) -> Tokens | None:
    path = os.environ.get(variable)
    return Tokens.read(Path(path)) if path else None


model = Path(os.environ.get("XTRAIN_MODEL", DEFAULT_MODEL))
device = os.environ.get("XTRAIN_DEVICE", "auto")
limits = Limits.from_environment(os.environ)
process.bound_memory()
protocol.install(limits.timeout)
app = create_app(
    limits,
    _tokens("XTRAIN_TOKENS"),
    _tokens("XTRAIN_ADMIN_TOKENS"),
    Shelf(model.parent, device, limits.threads),
)


@bentoml.service(
    name="xtrain",
    description="Image classification with one exported file. For research, not for diagnosis.",
    workers=1,  # one queue and one model, which a swap changes for all; more machines, not more workers
    # Beyond the app's own deadlines, that of the body and that of the answer, which come first.
    traffic={"timeout": 2 * limits.timeout + 5},
    # Request tracing is always on in BentoML and its largest single cost: excluded, 1.6-2.8 x the requests a second.
    tracing={"excluded_urls": "v1,v2,metrics"},
    # Its metrics label the raw path, so that anybody can grow them; the app has its own at the same route.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},  # the app writes its own, as JSON
)
class Classifier:
    """Loads the model once a worker; the routes are the app's."""

    def __init__(self) -> None:
        predictor = Predictor(model, device, limits.threads)
        predictor.warm_up()
        load(app, predictor)
        process.settle()

    @bentoml.api(route="/v1/classify")  # type: ignore[untyped-decorator]
    async def classify(self, images: np.ndarray, top: int | None = None) -> dict[str, Any]:
        """Classes and probabilities of images (N, H, W, C) uint8, with the `top` best classes of each.

        Declared for `bentoml.SyncHTTPClient`. Over HTTP the app's own route of this path answers, with its limits and
        its errors.
        """
        return await classified(app.state.engine, bodies.check(images, app.state.engine.card.shape), top)

    def __is_ready__(self) -> bool:
        return app.state.engine is not None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Answer what is in flight, refuse what comes after."""
        if app.state.engine is not None:
            await app.state.engine.close()


class Routes:
    """The app in front of BentoML's own routes: mounted behind them it answers a quarter less requests a second."""

    def __init__(self, after: ASGIApp) -> None:
        self.after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is below /v1 and /v2, /metrics and the Swagger page; pass the rest on."""
        path = scope["path"] if scope["type"] == "http" else ""
        ours = path.startswith(("/v1/", "/v2")) or path == "/metrics"
        answer = app if ours else HTMLResponse(PAGE) if path == "/" else self.after
        await answer(scope, receive, send)


Classifier.add_asgi_middleware(Routes)  # type: ignore[attr-defined]
