"""The Open Inference Protocol, version 2, over HTTP: what Triton's and KServe's clients speak.

https://github.com/kserve/open-inference-protocol, the REST part, and Triton's extension for binary tensors: JSON first,
its length in `Inference-Header-Content-Length`, then the raw little-endian values of each tensor in order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from serving.http import bodies
from serving.http.context import context, engine
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse, render
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.engine import Engine
from xtrain import __version__

HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class RequestedOutput:
    """One output that the client asks for, and whether as binary."""

    name: str
    binary: bool


async def live(request: Request) -> Response:
    """Answer that the server is alive."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Answer that the server and its model are ready; 503 until then."""
    engine(request)
    return JSONResponse({"ready": True})


async def server(request: Request) -> Response:
    """Answer with name, version and extensions of the server."""
    return JSONResponse({"name": "xtrain", "version": __version__, "extensions": ["binary_tensor_data"]})


async def model_ready(request: Request) -> Response:
    """Answer that the model of that name is ready."""
    return JSONResponse({"name": _named_engine(request).card.name, "ready": True})


async def metadata(request: Request) -> Response:
    """Answer with the tensors of the model."""
    card = _named_engine(request).card
    outputs = [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(card.classes)]}]
    if card.explain is not None:
        outputs.append({"name": HEATMAP, "datatype": "FP32", "shape": [-1, 1, *card.shape[:2]]})
    return JSONResponse(
        {
            "name": card.name,
            "versions": [card.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *card.shape]}],
            "outputs": outputs,
        }
    )


async def infer(request: Request) -> Response:
    """Run the model on one tensor of images, as JSON or binary, and answer in the form asked for."""
    model, current = _named_engine(request), context(request)
    content = await bodies.read(request)

    def parsed() -> tuple[dict[str, Any], NDArray[np.uint8], list[RequestedOutput]]:
        head, rest = _split(request, content)
        return head, _images(head, rest, model), _requested_outputs(head, model)

    head, images, requested = await bodies.run_off_loop(len(content), parsed)
    if any(output.name == HEATMAP for output in requested):
        probabilities, heatmaps = await model.predict_and_explain(images, current.deadline)
        tensors: dict[str, NDArray[np.float32]] = {OUTPUT: probabilities, HEATMAP: heatmaps[:, None]}
    else:
        tensors = {OUTPUT: await model.predict(images, current.deadline)}
    identifier = head.get("id")
    answer: dict[str, Any] = {"model_name": model.card.name, "model_version": model.card.version}
    if isinstance(identifier, str):
        answer["id"] = identifier
    return _encoded(answer, requested, tensors)


def _encoded(
    answer: dict[str, Any], requested: list[RequestedOutput], tensors: dict[str, NDArray[np.float32]]
) -> Response:
    """Return the response: JSON, followed by the binary tensors where any was asked for."""
    outputs, binary = [], []
    for output in requested:
        values = tensors[output.name]
        entry: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": list(values.shape)}
        if output.binary:
            raw = values.astype("<f4", copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            entry["data"] = values.ravel()
        outputs.append(entry)
    if not binary:
        return JSONResponse({**answer, "outputs": outputs})
    text = render({**answer, "outputs": outputs})
    headers = {HEADER: str(len(text))}
    return Response(b"".join([text, *binary]), media_type="application/octet-stream", headers=headers)


def _named_engine(request: Request) -> Engine:
    """Return the engine if the path names its model, and its version where one is named."""
    model = engine(request)
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != model.card.name or version not in (None, model.card.version):
        raise HTTPError(404, f"this server has the model {model.card.name}, version {model.card.version}, no other")
    return model


def _split(request: Request, content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON head and the binary rest of a body."""
    header = request.headers.get(HEADER)
    length = len(content)
    if header is not None:
        if not (header.isascii() and header.isdigit() and len(header) < 13 and int(header) <= len(content)):
            raise HTTPError(400, f"{HEADER} is not a length within the body")
        length = int(header)
    return bodies.json_object(content[:length]), content[length:]


def _images(head: dict[str, Any], rest: bytes, model: Engine) -> NDArray[np.uint8]:
    """Return the one input tensor as (N, H, W, C) uint8."""
    inputs = head.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise HTTPError(422, f"the request needs one input, {INPUT}")
    tensor = inputs[0]
    shape = tensor.get("shape")
    if tensor.get("name") != INPUT or tensor.get("datatype") != "UINT8":
        raise HTTPError(422, f"the input is {INPUT} of datatype UINT8")
    if not (isinstance(shape, list) and all(type(side) is int and 0 <= side < 2**31 for side in shape)):
        raise HTTPError(422, "the input's shape is not a list of sizes")
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != len(rest):
            raise HTTPError(400, f"binary_data_size is {size!r}, but {len(rest)} bytes follow the JSON")
        values: NDArray[Any] = np.frombuffer(rest, np.uint8)
    else:
        values = bodies.numbers(tensor.get("data")).ravel()
    count = 1
    for side in shape:
        count *= side
    if count != values.size:
        raise HTTPError(422, f"the shape {shape[:8]} has {count} values, the data {values.size}")
    try:
        images = values.reshape(shape)
    except ValueError as error:
        raise HTTPError(422, f"the shape {shape[:8]} is not one of images") from error
    return bodies.check_images(images, model.card.shape)


def _requested_outputs(head: dict[str, Any], model: Engine) -> list[RequestedOutput]:
    """Return the outputs asked for; by default the probabilities."""
    parameters = head.get("parameters") or {}
    everything = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    entries = head.get("outputs") or [{"name": OUTPUT}]
    if not (isinstance(entries, list) and all(isinstance(item, dict) for item in entries)):
        raise HTTPError(422, "outputs is not a list of objects")
    names = [OUTPUT, HEATMAP] if model.card.explain is not None else [OUTPUT]
    requested = []
    for item in entries:
        if item.get("name") not in names:
            raise HTTPError(422, f"the outputs are {', '.join(names)}")
        options = item.get("parameters") or {}
        binary = options.get("binary_data", everything) if isinstance(options, dict) else everything
        requested.append(RequestedOutput(item["name"], binary is True))
    if len({output.name for output in requested}) < len(requested):
        raise HTTPError(422, "an output is named twice")
    return requested
