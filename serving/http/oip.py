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
from starlette.routing import Route

from serving.http.app import bodies
from serving.http.responses import JSON, render
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.engine import Engine, held
from serving.http.errors import HTTPError
from xtrain import __version__

HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Wanted:
    """One output that the client asks for."""

    name: str
    binary: bool


async def live(request: Request) -> Response:
    """The server answers."""
    return JSON({"live": True})


async def ready(request: Request) -> Response:
    """The server and its model are ready; 503 until then."""
    held(request)
    return JSON({"ready": True})


async def server(request: Request) -> Response:
    """Name, version and extensions of the server."""
    return JSON({"name": "xtrain", "version": __version__, "extensions": ["binary_tensor_data"]})


async def model_ready(request: Request) -> Response:
    """The model of that name is ready."""
    engine = _named(request)
    return JSON({"name": engine.card.name, "ready": True})


async def metadata(request: Request) -> Response:
    """Tensors of the model."""
    engine = _named(request)
    card = engine.card
    outputs = [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(card.classes)]}]
    if card.explain is not None:
        outputs.append({"name": HEATMAP, "datatype": "FP32", "shape": [-1, 1, *card.shape[:2]]})
    return JSON(
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
    engine = _named(request)
    content = await bodies.read(request, engine.limits.max_batch_bytes, engine.limits.timeout)

    def parsed() -> tuple[dict[str, Any], NDArray[np.uint8], list[Wanted]]:
        head, rest = _split(request, content)
        return head, _images(head, rest, engine), _outputs(head, engine)

    head, images, wanted = await bodies.aside(len(content), parsed)
    if any(output.name == HEATMAP for output in wanted):
        probabilities, heatmaps = await engine.explain(images)
        found: dict[str, NDArray[np.float32]] = {OUTPUT: probabilities, HEATMAP: heatmaps[:, None]}
    else:
        found = {OUTPUT: await engine.predict(images)}
    identifier = head.get("id")
    answer: dict[str, Any] = {"model_name": engine.card.name, "model_version": engine.card.version, "outputs": []}
    if isinstance(identifier, str):
        answer["id"] = identifier
    tail = []
    for output in wanted:
        values = found[output.name]
        entry: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": list(values.shape)}
        if output.binary:
            raw = values.astype("<f4", copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = values.ravel()
        answer["outputs"].append(entry)
    if not tail:
        return JSON(answer)
    text = render(answer)
    return Response(b"".join([text, *tail]), media_type="application/octet-stream", headers={HEADER: str(len(text))})


def routes() -> list[Route]:
    """All of /v2."""
    model = "/v2/models/{name}"
    pairs = [
        ("/v2", server, "GET"),
        ("/v2/health/live", live, "GET"),
        ("/v2/health/ready", ready, "GET"),
    ]
    for base in (model, model + "/versions/{version}"):
        pairs += [(base, metadata, "GET"), (base + "/ready", model_ready, "GET"), (base + "/infer", infer, "POST")]
    return [Route(path, endpoint, methods=[method]) for path, endpoint, method in pairs]


def _named(request: Request) -> Engine:
    """The engine if the path names its model, and its version where one is named."""
    engine = held(request)
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != engine.card.name or version not in (None, engine.card.version):
        raise HTTPError(404, f"this server has the model {engine.card.name}, version {engine.card.version}, no other")
    return engine


def _split(request: Request, content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON head and the binary rest of a body."""
    given = request.headers.get(HEADER)
    length = len(content)
    if given is not None:
        if not (given.isascii() and given.isdigit() and int(given[:12]) <= len(content)):
            raise HTTPError(400, f"{HEADER} is not a length within the body")
        length = int(given)
    return bodies.fields(content[:length]), content[length:]


def _images(head: dict[str, Any], rest: bytes, engine: Engine) -> NDArray[np.uint8]:
    """The one input tensor as (N, H, W, C) uint8."""
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
    return bodies.check(values.reshape(shape), engine.card.shape)


def _outputs(head: dict[str, Any], engine: Engine) -> list[Wanted]:
    """The outputs asked for; by default the probabilities."""
    parameters = head.get("parameters") or {}
    everything = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    asked = head.get("outputs") or [{"name": OUTPUT}]
    if not (isinstance(asked, list) and all(isinstance(item, dict) for item in asked)):
        raise HTTPError(422, "outputs is not a list of objects")
    names = [OUTPUT, HEATMAP] if engine.card.explain is not None else [OUTPUT]
    wanted = []
    for item in asked:
        if item.get("name") not in names:
            raise HTTPError(422, f"the outputs are {', '.join(names)}")
        options = item.get("parameters") or {}
        binary = options.get("binary_data", everything) if isinstance(options, dict) else everything
        wanted.append(Wanted(item["name"], binary is True))
    if len({output.name for output in wanted}) < len(wanted):
        raise HTTPError(422, "an output is named twice")
    return wanted
