"""The OpenAPI description, made of the table of operations; at `/v1/openapi.json` and behind the Swagger page."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from serving.http.errors import CODES
from serving.http.operations import MediaType, Operation, Schema
from serving.http.responses import JSONResponse
from serving.settings import Settings
from xtrain import __version__
from xtrain.images import MAX_PIXELS

NUMBER: Schema = {"type": "number"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
WHEN = {
    400: "unreadable: no image, no array, cut off, not what its type says",
    401: "no bearer token, where the server asks for one",
    404: "no such path, model or version",
    405: "the path takes another method",
    408: "the body came slower than 128 KiB a second, after the first --timeout seconds",
    413: "too many bytes or pixels, or decoding would take too much memory",
    415: "another content type or encoding, several pages in a file, or a file in thousands of pieces",
    422: "wrong shape, dtype or option",
    429: "the queue is full, other requests have the memory, or the token its rate; Retry-After says how long",
    431: "more than 64 KiB of a head",
    500: "the server's own fault",
    503: "loading, stopping, or too many connections",
    504: "no answer in time",
}
# BentoML's own page would load a tracker of another company; this one loads what BentoML packs, and nothing else.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>xtrain: image classification, for research and not for diagnosis</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="./static_content/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "./v1/openapi.json", dom_id: "#page"})</script>
</body>
</html>
"""


def response(operations: Sequence[Operation], settings: Settings) -> Response:
    """Return the description as a JSON response."""
    return JSONResponse(describe(operations, settings))


def describe(operations: Sequence[Operation], settings: Settings) -> dict[str, Any]:
    """Return the whole document, OpenAPI 3.1.

    Args:
        operations: the table.
        settings: whose limits are told.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "xtrain",
            "version": __version__,
            "description": "Image classification with one exported file. For research, not for diagnosis.\n\n"
            f"Limits: {settings.max_bytes} bytes of one image, {settings.max_batch_bytes} of many, {MAX_PIXELS} pixels,"
            f" {settings.max_queue} images waiting, {settings.timeout:g} s. Other paths below /v1 and /v2 are answered "
            "with 404, other methods with 405, heads that are too long with 431 and those that take too long with 408.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    """Return the description of one operation: its 200, and the errors that it can give."""
    shape = "ProtocolError" if operation.path.startswith("/v2") else "Error"
    error = {"application/json": {"schema": ref(shape)}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "done", "content": _content(operation.responses)},
            **{str(status): {"description": WHEN[status], "content": error} for status in operation.all_statuses},
        },
        "security": {"open": [], "token": [{}, {"token": []}], "admin": [{"token": []}]}[operation.access],
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    return described


def _content(media_types: Any) -> dict[str, Any]:
    entries: dict[str, MediaType] = dict(media_types)
    return {kind: {"schema": entry.schema} for kind, entry in entries.items()}


def query(name: str, schema: Schema, description: str) -> Schema:
    """Return the description of a query parameter."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def path_parameter(name: str) -> Schema:
    """Return the description of a path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def ref(name: str) -> Schema:
    """Return a reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_schema(properties: Schema, required: list[str] | None = None) -> Schema:
    """Return the schema of an object whose properties are all required, or those that are named."""
    return {"type": "object", "properties": properties, "required": required or list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _schemas() -> Schema:
    """Return the schemas of what goes in and out as JSON."""
    ranked = {"class": COUNT, "label": TEXT, "probability": NUMBER}
    named = {"model": TEXT, "version": TEXT, "sha256": TEXT}
    fault = object_schema({"code": {"enum": sorted(set(CODES.values()))}, "message": TEXT})
    prediction = {
        **ranked,
        "probabilities": _list(NUMBER),
        "top": _list(object_schema(ranked)),
        "heatmap": TEXT,
        "name": TEXT,
    }
    failed = object_schema({"name": TEXT, "error": fault})
    pixel: Schema = {"type": "integer", "minimum": 0, "maximum": 255}
    data = {"anyOf": [_list(pixel), _list({"type": "array"})]}
    tensor = {"name": TEXT, "shape": _list(COUNT), "datatype": TEXT, "data": data, "parameters": {"type": "object"}}
    wanted = object_schema({"name": TEXT, "parameters": {"type": "object"}}, ["name"])
    output = object_schema({"name": TEXT, "shape": _list(COUNT), "datatype": TEXT}, ["name", "shape", "datatype"])
    dims = object_schema({"name": TEXT, "data_type": TEXT, "dims": _list({"type": "integer"})})
    described = object_schema({"name": TEXT, "datatype": TEXT, "shape": _list({"type": "integer"})})
    return {
        "Error": object_schema({"error": {**fault, "properties": {**fault["properties"], "request_id": TEXT}}}),
        "ProtocolError": object_schema({"error": TEXT}),
        "Predictions": object_schema(
            {
                **named,
                "predictions": _list(
                    {"anyOf": [object_schema(prediction, ["class", "label", "probability", "probabilities"]), failed]}
                ),
            }
        ),
        "Pixels": object_schema(
            {"images": _list(_list(_list(_list(pixel)))), "top": {"type": ["integer", "null"], "minimum": 1}},
            ["images"],
        ),
        "Card": object_schema({"sha256": TEXT, "name": TEXT, "version": TEXT, "classes": _list(TEXT)}),
        "Model": object_schema({**named, "workers": _list(COUNT)}),
        "Models": object_schema({"default": TEXT, "models": _list(object_schema({**named, "name": TEXT}, ["name"]))}),
        "Index": _list(object_schema({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT})),
        "Server": object_schema({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "Live": object_schema({"live": {"type": "boolean"}}),
        "Ready": object_schema({"ready": {"type": "boolean"}}),
        "ModelReady": object_schema({"name": TEXT, "ready": {"type": "boolean"}}),
        "Config": object_schema(
            {"name": TEXT, "platform": TEXT, "max_batch_size": COUNT, "input": _list(dims), "output": _list(dims)}
        ),
        "Statistics": object_schema({"model_stats": _list(object_schema({"name": TEXT, "inference_count": COUNT}))}),
        "Metadata": object_schema(
            {
                "name": TEXT,
                "versions": _list(TEXT),
                "platform": TEXT,
                "inputs": _list(described),
                "outputs": _list(described),
            }
        ),
        "InferRequest": object_schema(
            {
                "id": TEXT,
                "inputs": _list(object_schema(tensor, ["name", "shape", "datatype"])),
                "outputs": _list(wanted),
                "parameters": {"type": "object"},
            },
            ["inputs"],
        ),
        "InferResponse": object_schema({"model_name": TEXT, "model_version": TEXT, "outputs": _list(output)}),
    }
