"""The Open Inference Protocol, version 2, over HTTP: what Triton's and KServe's clients ask before they infer.

https://github.com/kserve/open-inference-protocol, the REST part, with Triton's extensions for a model's configuration
and statistics. Inference itself is in `infer`.
"""

from starlette.requests import Request
from starlette.responses import Response

from serving.http.context import engine
from serving.http.errors import HTTPError
from serving.http.responses import JSONResponse
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.engine import Engine
from xtrain import __version__

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]


async def live(request: Request) -> Response:
    """Answer that the server is alive."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Answer that the server and its model are ready; 503 until then."""
    engine(request)
    return JSONResponse({"ready": True})


async def server(request: Request) -> Response:
    """Answer with name, version and extensions of the server."""
    return JSONResponse({"name": "xtrain", "version": __version__, "extensions": EXTENSIONS})


async def model_ready(request: Request) -> Response:
    """Answer that the model of that name is ready."""
    return JSONResponse({"name": named_engine(request).card.name, "ready": True})


async def metadata(request: Request) -> Response:
    """Answer with the tensors of the model."""
    card = named_engine(request).card
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


async def config(request: Request) -> Response:
    """Answer with Triton's description of the model, from which its clients choose the size of a batch."""
    model = named_engine(request)
    card = model.card
    outputs = [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [len(card.classes)]}]
    if card.explain is not None:
        outputs.append({"name": HEATMAP, "data_type": "TYPE_FP32", "dims": [1, *card.shape[:2]]})
    return JSONResponse(
        {
            "name": card.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": model.max_batch,
            "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": list(card.shape)}],
            "output": outputs,
            "dynamic_batching": {},
        }
    )


async def statistics(request: Request) -> Response:
    """Answer with the counts and nanoseconds of the model's runs, in the form of Triton's statistics extension."""
    model = named_engine(request)
    counted = model.statistics

    def duration(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    ran = duration(counted.runs, counted.run_seconds)
    one = {
        "name": model.card.name,
        "version": model.card.version,
        "last_inference": round(counted.last_run * 1000),
        "inference_count": counted.images,
        "execution_count": counted.runs,
        "inference_stats": {
            "success": duration(counted.requests, counted.queued_seconds + counted.run_seconds),
            "fail": duration(counted.failures, 0),
            "queue": duration(counted.requests, counted.queued_seconds),
            "compute_infer": ran,
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": duration(runs, seconds)}
            for size, (runs, seconds) in sorted(counted.by_size.items())
        ],
    }
    return JSONResponse({"model_stats": [one]})


def named_engine(request: Request) -> Engine:
    """Return the engine if the path names its model, and its version where one is named."""
    model = engine(request)
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != model.card.name or version not in (None, model.card.version):
        raise HTTPError(404, f"this server has the model {model.card.name}, version {model.card.version}, no other")
    return model
