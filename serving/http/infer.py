"""Inference of the Open Inference Protocol: one tensor of images in, probabilities, heatmaps or classes out.

With Triton's extensions for binary tensors (JSON first, its length in `Inference-Header-Content-Length`, then the raw
little-endian values of each tensor in order) and for classification (the best classes as text).
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from serving.http import bodies, decoding
from serving.http.context import context, engine
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse, render
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.engine import Engine

HEADER = "Inference-Header-Content-Length"
MAX_DIMENSIONS = 8  # of a shape that is looked at; images have four


@dataclass(frozen=True)
class RequestedOutput:
    """One output that the client asks for.

    Attributes:
        name: of the tensor.
        is_binary: whether its values follow the JSON.
        class_count: that many best classes as text instead of the values; 0 for the values.
    """

    name: str
    is_binary: bool
    class_count: int = 0


@dataclass(frozen=True)
class Tensor:
    """One output of the answer: its values, or text as (N, classes) of bytes."""

    datatype: str
    values: NDArray[Any]

    def raw(self) -> bytes:
        """Return the values in the order and form of the binary extension."""
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(text)) + text for text in self.values.ravel())
        return self.values.astype("<f4", copy=False).tobytes()

    def data(self) -> Any:
        """Return the values for JSON, flat."""
        return [text.decode() for text in self.values.ravel()] if self.datatype == "BYTES" else self.values.ravel()


async def infer(request: Request) -> Response:
    """Run the model on one tensor of images, as JSON or binary, and answer in the form asked for."""
    model = engine(request)
    content = await bodies.read(request)
    length = _json_length(request, content)
    head, pixels = await decoding.parse(request, content[:length])
    images = input_images(head, pixels, memoryview(content)[length:], model)
    tensors = await run(model, images, requested_outputs(head, model), context(request).deadline)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if isinstance(head.get("id"), str):
        answer["id"] = head["id"]
    return _encoded(answer, tensors)


async def run(
    model: Engine, images: NDArray[np.uint8], requested: list[RequestedOutput], deadline: float
) -> list[tuple[RequestedOutput, Tensor]]:
    """Return the requested outputs of images (N, H, W, C), each with its tensor.

    Raises:
        QueueFull, DeadlinePassed, Stopping: as the engine.
    """
    results: dict[str, NDArray[np.float32]] = {}
    if any(output.name == HEATMAP for output in requested):
        results[OUTPUT], heatmaps = await model.predict_and_explain(images, deadline)
        results[HEATMAP] = heatmaps[:, None]
    else:
        results[OUTPUT] = await model.predict(images, deadline)
    return [(output, _tensor(results[output.name], output, model.card.classes)) for output in requested]


def _tensor(values: NDArray[np.float32], output: RequestedOutput, classes: tuple[str, ...]) -> Tensor:
    """Return the tensor of an output; the best classes as `probability:index:name`, where they are asked for."""
    if not output.class_count:
        return Tensor("FP32", values)
    order = np.argsort(-values, axis=1, kind="stable")[:, : output.class_count]
    texts = np.empty(order.shape, dtype=object)
    for row, ranked in enumerate(order):
        texts[row] = [f"{values[row, index]:.6f}:{index}:{classes[index]}".encode() for index in ranked]
    return Tensor("BYTES", texts)


def _encoded(answer: dict[str, Any], tensors: list[tuple[RequestedOutput, Tensor]]) -> Response:
    """Return the response: JSON, followed by the binary tensors where any was asked for."""
    outputs, binary = [], []
    for output, tensor in tensors:
        shape = list(tensor.values.shape)
        entry: dict[str, Any] = {"name": output.name, "datatype": tensor.datatype, "shape": shape}
        if output.is_binary:
            raw = tensor.raw()
            entry["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            entry["data"] = tensor.data()
        outputs.append(entry)
    if not binary:
        return JSONResponse({**answer, "outputs": outputs})
    text = render({**answer, "outputs": outputs})
    headers = {HEADER: str(len(text))}
    return Response(b"".join([text, *binary]), media_type="application/octet-stream", headers=headers)


def _json_length(request: Request, content: bytes) -> int:
    """Return the length of the body's JSON."""
    header = request.headers.get(HEADER)
    if header is None:
        return len(content)
    if not (header.isascii() and header.isdigit() and len(header) < 13 and int(header) <= len(content)):
        raise HTTPError(400, f"{HEADER} is not a length within the body")
    return int(header)


def input_images(
    head: dict[str, Any], pixels: NDArray[np.uint8] | None, binary: memoryview, model: Engine
) -> NDArray[np.uint8]:
    """Return the one input tensor of a request as (N, H, W, C) uint8.

    Args:
        head: the request as JSON, without the values of its tensor.
        pixels: the values, if they were in the JSON.
        binary: the values, if they followed it.
        model: whose native size they must have.

    Raises:
        HTTPError: 422, another name, type or shape; 400, another number of bytes than it says.
    """
    inputs = head.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise HTTPError(422, f"the request needs one input, {INPUT}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT or tensor.get("datatype") != "UINT8":
        raise HTTPError(422, f"the input is {INPUT} of datatype UINT8")
    shape = tensor.get("shape")
    if not (isinstance(shape, list) and all(type(side) is int and 0 <= side < 2**31 for side in shape)):
        raise HTTPError(422, "the input's shape is not a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise HTTPError(422, f"the input's shape has {len(shape)} dimensions, images have 4")
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if type(size) is not int or size != len(binary):
            raise HTTPError(400, f"binary_data_size is not {len(binary)}, the number of bytes that follow the JSON")
        values = np.frombuffer(binary, np.uint8)
    else:
        values = bodies.required(pixels).ravel()
    try:
        images = values.reshape(shape)
    except ValueError as error:
        raise HTTPError(422, f"the data has {values.size} values, which are not of shape {shape}") from error
    return bodies.check_images(images, model.card.shape)


def requested_outputs(head: dict[str, Any], model: Engine) -> list[RequestedOutput]:
    """Return the outputs that a request asks for; by default all of them.

    Raises:
        HTTPError: 422, the model has no such output.
    """
    parameters = head.get("parameters") or {}
    all_binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    names = [OUTPUT, HEATMAP] if model.card.explain is not None else [OUTPUT]
    entries = head.get("outputs") or [{"name": name} for name in names]
    if not (isinstance(entries, list) and all(isinstance(item, dict) for item in entries)):
        raise HTTPError(422, "outputs is not a list of objects")
    requested = []
    for item in entries:
        if item.get("name") not in names:
            raise HTTPError(422, f"the outputs are {', '.join(names)}")
        options = item.get("parameters") or {}
        if not isinstance(options, dict):
            raise HTTPError(422, "an output's parameters are not an object")
        classes = options.get("classification", 0)
        if type(classes) is not int or classes < 0 or (classes and item["name"] != OUTPUT):
            raise HTTPError(422, f"classification is a number of classes, of the output {OUTPUT}")
        requested.append(RequestedOutput(item["name"], options.get("binary_data", all_binary) is True, classes))
    if len({output.name for output in requested}) < len(requested):
        raise HTTPError(422, "an output is named twice")
    return requested
