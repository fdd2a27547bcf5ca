"""The endpoints of a loaded model's card, and of the metrics of the process."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from serving.http.context import engine
from serving.http.metrics import Metrics
from serving.http.responses import JSONResponse
from serving.model.predictor import Predictor


def load_model(app: Starlette, predictor: Predictor) -> None:
    """Make a warmed-up predictor the one that answers from now on."""
    app.state.models.add(predictor)
    app.state.metrics.on_models(app.state.models)


async def show_card(request: Request) -> Response:
    """Answer with the digest and the card of the model; without reference images and digests of rows."""
    predictor = engine(request).predictor
    return JSONResponse({"sha256": predictor.digest, **predictor.card.summary()})


async def show_metrics(request: Request) -> Response:
    """Answer with the Prometheus metrics of all workers."""
    metrics: Metrics = request.app.state.metrics
    return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")
