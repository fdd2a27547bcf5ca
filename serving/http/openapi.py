"""The OpenAPI description of the routes, at `/v1/openapi.json` and behind the Swagger page; a fuzzer checks it."""

from typing import Any

from serving.scheduling.engine import Limits
from serving.http.errors import CODES
from serving.images.decode import MAX_PIXELS, MEDIA_TYPES
from xtrain import __version__

Spec = dict[str, Any]

BINARY: Spec = {"type": "string", "format": "binary"}
NUMBER: Spec = {"type": "number"}
TEXT: Spec = {"type": "string"}
COUNT: Spec = {"type": "integer", "minimum": 0}
WHEN = {
    400: "unreadable: no image, no array, cut off, not what its type says",
    401: "no bearer token, where the server asks for one",
    404: "no such path, model or version",
    405: "another method",
    408: "the head or the body did not come in time",
    413: "too many bytes or pixels",
    415: "another content type, or several pages in a file",
    422: "wrong shape, dtype or option",
    429: "the queue is full, or other requests have the memory for bodies; Retry-After says how long",
    431: "a head that is too long",
    500: "the server's own fault",
    503: "loading or stopping",
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
OPTIONS: list[Spec] = [
    {
        "name": "top",
        "in": "query",
        "description": "that many best classes",
        "schema": {"type": "integer", "minimum": 1},
    },
    {
        "name": "explain",
        "in": "query",
        "description": "a PNG overlay of the heatmap, where the model has one",
        "schema": {"type": "boolean"},
    },
]


def describe(limits: Limits) -> Spec:
    """The whole document, OpenAPI 3.1."""
    images = {kind: {"schema": BINARY} for kind in MEDIA_TYPES}
    npy = {"application/x-npy": {"schema": BINARY}}
    form = {"multipart/form-data": {"schema": _object({"image": {"type": "array", "items": BINARY}})}}
    packed = {kind: {"schema": BINARY} for kind in ("application/octet-stream", "application/zip", "application/x-npz")}
    tensors = {
        "application/json": {"schema": _ref("InferRequest")},
        "application/octet-stream": {"schema": BINARY},
    }
    paths: Spec = {
        "/v1/predict": {
            "post": _operation(
                "Classes and probabilities of an image, of the files of a form, or of the rows of an array.",
                {**_json("Predictions")},
                body={**images, **form, **npy},
                parameters=OPTIONS,
            )
        },
        "/v1/classify": {
            "post": _operation(
                "The same for pixels as JSON; what bentoml.SyncHTTPClient calls.",
                _json("Predictions"),
                body={"application/json": {"schema": _ref("Pixels")}},
            )
        },
        "/v1/score": {
            "post": _operation(
                "The ID,CLASS table of all images, complete or an error.",
                {"text/csv": {"schema": TEXT}},
                body={**npy, **packed},
            )
        },
        "/v1/model": {
            "get": _operation("The card of the model that answers.", _json("Card")),
            "post": _operation(
                "Let another file of the model's folder answer; needs an admin's token.",
                _json("Model"),
                body={"application/json": {"schema": _object({"path": TEXT}, ["path"])}},
            ),
        },
        "/v2": {"get": _operation("The server.", _json("Server"))},
        "/v2/health/live": {"get": _operation("Whether it answers.", _json("Live"))},
        "/v2/health/ready": {"get": _operation("Whether its model is ready.", _json("Ready"))},
        "/metrics": {"get": _operation("Prometheus figures.", {"text/plain": {"schema": TEXT}})},
    }
    for base, names in (("/v2/models/{name}", ["name"]), ("/v2/models/{name}/versions/{version}", ["name", "version"])):
        path = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
        infer = _operation("Run it on a tensor of images.", tensors, body=tensors, parameters=path)
        infer["responses"]["200"]["content"]["application/json"]["schema"] = _ref("InferAnswer")
        paths[base] = {"get": _operation("Tensors of the model.", _json("Metadata"), parameters=path)}
        paths[f"{base}/ready"] = {"get": _operation("Whether it is ready.", _json("ModelReady"), parameters=path)}
        paths[f"{base}/infer"] = {"post": infer}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "xtrain",
            "version": __version__,
            "description": "Image classification with one exported file. For research, not for diagnosis.\n\n"
            f"Limits: {limits.max_bytes} bytes of one image, {limits.max_batch_bytes} of many, {MAX_PIXELS} pixels, "
            f"{limits.max_queue} images waiting, {limits.timeout:g} s.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _operation(summary: str, answer: Spec, body: Spec | None = None, parameters: list[Spec] | None = None) -> Spec:
    """One route and method: its 200, and every error of the table in the one shape."""
    errors = {str(status): {"description": WHEN[status], "content": _json("Error")} for status in CODES}
    operation: Spec = {
        "summary": summary,
        "responses": {"200": {"description": "done", "content": answer}, **errors},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _json(name: str) -> Spec:
    return {"application/json": {"schema": _ref(name)}}


def _ref(name: str) -> Spec:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Spec, required: list[str] | None = None) -> Spec:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


def _list(items: Spec) -> Spec:
    return {"type": "array", "items": items}


def _schemas() -> Spec:
    """What goes in and out as JSON."""
    ranked = {"class": COUNT, "label": TEXT, "probability": NUMBER}
    named = {"model": TEXT, "version": TEXT, "sha256": TEXT}
    fault = _object({"code": {"enum": sorted(set(CODES.values()))}, "message": TEXT})
    prediction = {
        **ranked,
        "probabilities": _list(NUMBER),
        "top": _list(_object(ranked)),
        "heatmap": TEXT,
        "name": TEXT,
    }
    failed = _object({"name": TEXT, "error": fault})
    pixel: Spec = {"type": "integer", "minimum": 0, "maximum": 255}
    data = {"anyOf": [_list(pixel), _list({"type": "array"})]}
    tensor = {"name": TEXT, "shape": _list(COUNT), "datatype": TEXT, "data": data, "parameters": {"type": "object"}}
    wanted = _object({"name": TEXT, "parameters": {"type": "object"}}, ["name"])
    output = _object({"name": TEXT, "shape": _list(COUNT), "datatype": TEXT}, ["name", "shape", "datatype"])
    described = _object({"name": TEXT, "datatype": TEXT, "shape": _list({"type": "integer"})})
    return {
        "Error": _object({"error": {**fault, "properties": {**fault["properties"], "request_id": TEXT}}}),
        "Predictions": _object(
            {
                **named,
                "predictions": _list(
                    {"anyOf": [_object(prediction, ["class", "label", "probability", "probabilities"]), failed]}
                ),
            }
        ),
        "Pixels": _object(
            {"images": _list(_list(_list(_list(pixel)))), "top": {"type": ["integer", "null"], "minimum": 1}},
            ["images"],
        ),
        "Card": _object({"sha256": TEXT, "name": TEXT, "version": TEXT, "classes": _list(TEXT)}),
        "Model": _object(named),
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": TEXT, "ready": {"type": "boolean"}}),
        "Metadata": _object(
            {
                "name": TEXT,
                "versions": _list(TEXT),
                "platform": TEXT,
                "inputs": _list(described),
                "outputs": _list(described),
            }
        ),
        "InferRequest": _object(
            {
                "id": TEXT,
                "inputs": _list(_object(tensor, ["name", "shape", "datatype"])),
                "outputs": _list(wanted),
                "parameters": {"type": "object"},
            },
            ["inputs"],
        ),
        "InferAnswer": _object({"model_name": TEXT, "model_version": TEXT, "outputs": _list(output)}),
    }
