"""The HTTP app: a plain ASGI app around an engine; `service` mounts it on BentoML.

A client's mistake is never a 500, and every error has one shape (`errors`).
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from serving.http import errors
from serving.http.access import Authorization
from serving.http.context import RequestMiddleware
from serving.http.errors import HTTPError
from serving.http.metrics import Metrics
from serving.http.model import load_model
from serving.http.routes import routes
from serving.images.pool import DecoderPool
from serving.model.devices import usable_cores
from serving.model.repository import ModelRepository
from serving.scheduling.memory import MemoryBudget
from serving.scheduling.models import Models
from serving.settings import Settings
from serving.workers.changes import Changes
from serving.workers.peers import Peers

DECODERS_A_CORE = 4  # at most: each takes 35 MB, and as much again as what it decodes

__all__ = ["create_app", "load_model"]


def create_app(
    settings: Settings | None = None,
    authorization: Authorization | None = None,
    repository: ModelRepository | None = None,
    peers: Peers | None = None,
) -> Starlette:
    """Return the app; it answers 503 until `load_model` has given it a model.

    Args:
        settings: its limits; those that concern the model's file are not used here.
        authorization: the tokens; by default everybody may predict and nobody swap the model.
        repository: where other models are; None for nowhere.
        peers: the other processes of the server; None where this is the only one.
    """
    settings = settings or Settings()
    budget = MemoryBudget(settings.memory_budget)
    metrics = Metrics(budget, peers)
    app = Starlette(
        routes=routes(),
        exception_handlers={
            HTTPException: _router_error,
            **dict.fromkeys((HTTPError, *errors.STATUS, Exception), _error),
        },
        middleware=[
            Middleware(
                RequestMiddleware,
                metrics=metrics,
                budget=budget,
                timeout=settings.timeout,
            )
        ],
    )
    app.state.settings, app.state.metrics, app.state.budget = settings, metrics, budget
    app.state.decoders = DecoderPool(min(settings.decoders or usable_cores(), DECODERS_A_CORE * usable_cores()))
    app.state.models, app.state.changing = Models(settings, repository, metrics.on_batch), set()
    app.state.changes = Changes(app.state.models, peers)
    app.state.authorization = authorization or Authorization()
    return app


async def _router_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses, such as another method, in the same shape as the rest."""
    assert isinstance(error, HTTPException)
    return await _error(request, HTTPError(error.status_code, error.detail, error.headers))


async def _error(request: Request, error: Exception) -> Response:
    metrics: Metrics = request.app.state.metrics
    status, _ = errors.describe(error)  # an unforeseen error is raised again by Starlette, for the log
    metrics.rejected.labels(errors.CODES[status]).inc()
    return errors.error_response(request, error)
