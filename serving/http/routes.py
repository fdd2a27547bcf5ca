"""The table of operations: path, method, media types, limits, statuses and access, each said once.

The router (`routes`), who may send what, and the OpenAPI description are made of it.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from serving.http import infer, model, oip, openapi, predict, repository, ui
from serving.http.access import Access, Authorization
from serving.http.context import context
from serving.http.errors import HTTPError
from serving.http.operations import BINARY, Endpoint, MediaType, Operation, Schema
from serving.images.pixels import MAX_JSON
from xtrain.images import MEDIA_TYPES

MAX_SWAP_BYTES = 4096
RUNS = (500, 503, 504)  # what an operation that runs the model can fail with
TEXT: Schema = {"type": "string"}
_FORM = openapi.object_schema({"image": {"type": "array", "items": BINARY}})
_TOP = openapi.query("top", {"type": "integer", "minimum": 1}, "that many best classes")
_EXPLAIN = openapi.query("explain", {"type": "boolean"}, "a PNG overlay of the heatmap, where the model has one")
_MODEL = (
    openapi.query("model", TEXT, "name of a loaded model, instead of the default one"),
    openapi.query("version", TEXT, "its version, instead of the latest"),
)
_MANY = MediaType(BINARY, "max_batch_bytes")
_INFER = {
    "application/json": MediaType(openapi.ref("InferRequest"), "max_batch_bytes"),
    "application/octet-stream": _MANY,
}
_INFERRED = {"application/json": MediaType(openapi.ref("InferResponse")), "application/octet-stream": MediaType(BINARY)}


def _json(name: str) -> dict[str, MediaType]:
    return {"application/json": MediaType(openapi.ref(name))}


async def describe(request: Request) -> Response:
    """Answer with the OpenAPI description."""
    return openapi.response(OPERATIONS, request.app.state.settings)


_V1 = (
    Operation(
        "/v1/predict",
        "POST",
        predict.predict,
        "Classes and probabilities of an image, of the files of a form, or of the rows of an array.",
        _json("Predictions"),
        body={
            **{kind: MediaType(BINARY) for kind in MEDIA_TYPES},
            predict.FORM: MediaType(_FORM, "max_batch_bytes"),
            predict.NPY: _MANY,
        },
        statuses=(404, 422, *RUNS),
        parameters=(_TOP, _EXPLAIN, *_MODEL),
    ),
    Operation(
        "/v1/classify",
        "POST",
        predict.classify,
        "The same for pixels as JSON; what bentoml.SyncHTTPClient calls.",
        _json("Predictions"),
        body={"application/json": MediaType(openapi.ref("Pixels"), MAX_JSON)},
        statuses=(404, 422, *RUNS),
        parameters=_MODEL,
    ),
    Operation(
        "/v1/score",
        "POST",
        predict.score,
        "The ID,CLASS table of all images, complete or an error.",
        {"text/csv": MediaType(TEXT)},
        body={
            predict.NPY: _MANY,
            "application/octet-stream": _MANY,
            "application/zip": _MANY,
            "application/x-npz": _MANY,
        },
        statuses=(404, 422, *RUNS),
        parameters=_MODEL,
    ),
    Operation(
        "/v1/model",
        "GET",
        model.show_card,
        "The card of the model that answers.",
        _json("Card"),
        statuses=(404, 503),
        parameters=_MODEL,
    ),
    Operation("/v1/models", "GET", repository.list_models, "The loaded models.", _json("Models")),
    Operation(
        "/v1/model",
        "POST",
        repository.swap,
        "Let another file of the models' folder be the default model; needs an admin's token.",
        _json("Model"),
        body={"application/json": MediaType(openapi.object_schema({"path": TEXT}), MAX_SWAP_BYTES)},
        statuses=(422, 503),
        access="admin",
        any_body=True,
    ),
    Operation(
        "/v1/openapi.json",
        "GET",
        describe,
        "This description.",
        {"application/json": MediaType({"type": "object"})},
        access="open",
    ),
)
_ALIASES = (
    Operation(
        "/openapi.json",
        "GET",
        describe,
        "This description, where other tools look for it.",
        {"application/json": MediaType({"type": "object"})},
        access="open",
    ),
)
_V2 = (
    Operation("/v2", "GET", oip.server, "The server's name, version and extensions.", _json("Server")),
    Operation("/v2/health/live", "GET", oip.live, "Whether it is alive.", _json("Live"), access="open"),
    Operation(
        "/v2/health/ready",
        "GET",
        oip.ready,
        "Whether its model is ready.",
        _json("Ready"),
        statuses=(503,),
        access="open",
    ),
)


def _v2_model(base: str, names: tuple[str, ...]) -> tuple[Operation, ...]:
    """Return the operations of a model below one of its two addresses."""
    path = tuple(openapi.path_parameter(name) for name in names)
    return (
        Operation(base, "GET", oip.metadata, "Tensors of the model.", _json("Metadata"), {}, (404, 503), path),
        Operation(
            f"{base}/ready", "GET", oip.model_ready, "Whether it is ready.", _json("ModelReady"), {}, (404, 503), path
        ),
        Operation(
            f"{base}/config",
            "GET",
            oip.config,
            "Its configuration as Triton's clients read it.",
            _json("Config"),
            {},
            (404, 503),
            path,
        ),
        Operation(
            f"{base}/stats", "GET", oip.statistics, "Its runs so far.", _json("Statistics"), {}, (404, 503), path
        ),
        Operation(
            f"{base}/infer",
            "POST",
            infer.infer,
            "Run it on a tensor of images.",
            _INFERRED,
            _INFER,
            (404, 422, *RUNS),
            path,
            any_body=True,
        ),
    )


def _v2_repository() -> tuple[Operation, ...]:
    """Return the operations of the repository extension."""
    path, nothing = (openapi.path_parameter("name"),), {"application/json": MediaType({"type": "object"})}
    asked = {"application/json": MediaType({"type": "object"}, MAX_SWAP_BYTES)}

    def change(verb: str, endpoint: Endpoint, summary: str) -> Operation:
        return Operation(
            f"/v2/repository/models/{{name}}/{verb}",
            "POST",
            endpoint,
            summary,
            nothing,
            asked,
            (404, 422, 503),
            path,
            access="admin",
            any_body=True,
        )

    return (
        Operation(
            "/v2/repository/index",
            "POST",
            repository.index,
            "Every model of the folder, and whether it is loaded.",
            _json("Index"),
            asked,
            (),
            any_body=True,
        ),
        change("load", repository.load, "Load all versions of a model, or load them anew; needs an admin's token."),
        change("unload", repository.unload, "Take all versions of a model out; needs an admin's token."),
    )


OPERATIONS: tuple[Operation, ...] = (
    *_V1,
    *_ALIASES,
    *_V2,
    *_v2_model("/v2/models/{name}", ("name",)),
    *_v2_repository(),
    *_v2_model("/v2/models/{name}/versions/{version}", ("name", "version")),
    Operation(
        "/metrics",
        "GET",
        model.show_metrics,
        "Prometheus metrics.",
        {"text/plain": MediaType(TEXT)},
        access="open",
    ),
)
PATTERNS = {entry.path: compile_path(entry.path)[0] for entry in OPERATIONS}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def routes() -> list[Route]:
    """Return the router's routes: one an operation, the page's, and one for every other path."""
    known = [Route(entry.path, _endpoint(entry), methods=[entry.method]) for entry in OPERATIONS]
    others = ("/v1/{path:path}", "/v2/{path:path}", "/v2", "/metrics", "/openapi.json")
    return [*known, *ui.ROUTES, *(Route(path, _unknown, methods=METHODS) for path in others)]


async def _unknown(request: Request) -> Response:
    """Refuse any other path, and other methods of those that exist; both need a token like everything else."""
    context(request).operation = "unknown"
    _check_access(request, "token")
    path = request.scope["path"]
    if path.isprintable():
        methods = sorted({entry.method for entry in OPERATIONS if PATTERNS[entry.path].match(path)})
        if methods:
            raise HTTPError(405, f"this path takes {' or '.join(methods)}", {"Allow": ", ".join(methods)})
    raise HTTPError(404, "no operation has this path; POST /v1/predict, POST /v1/score, GET /v1/model, or /v2")


def _check_access(request: Request, access: Access) -> None:
    """Refuse a request whose bearer token does not admit it, or has sent too many.

    Raises:
        HTTPError: 401, 429.
    """
    authorization: Authorization = request.app.state.authorization
    refusal = authorization.refuse(access, request.headers.get("authorization", ""))
    if refusal is not None:
        raise refusal.error()


def _endpoint(operation: Operation) -> Callable[[Request], object]:
    """Return the operation's endpoint; it finds the operation in the request, and metrics its name."""
    answer: Endpoint = operation.endpoint

    async def endpoint(request: Request) -> Response:
        if not request.scope["path"].isprintable():  # Starlette's pattern of a path matches before a newline too
            return await _unknown(request)
        request.scope["operation"] = operation
        current = context(request)
        current.operation = answer.__name__
        _check_access(request, operation.access)
        return await current.answered_in_time(answer(request))

    return endpoint
