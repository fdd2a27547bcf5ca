"""The Open Inference Protocol, version 2, over HTTP: what Triton's and KServe's clients ask before they infer.

https://github.com/kserve/open-inference-protocol, the REST part, with Triton's extensions for a model's configuration
and statistics. Inference itself is in `infer`.
"""

from starlette.requests import Request
from starlette.responses import Response

from serving.http.context import engine, models
from serving.http.metrics import Metrics
from serving.http.responses import JSONResponse
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.batcher import Stopping
from xtrain import __version__

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]


async def live(request: Request) -> Response:
    """Answer that the server is alive."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Answer that the server and its default model are ready; 503 until then, and once it is about to end."""
    engine(request)
    if not models(request).ready:
        raise Stopping("the server is stopping")
    return JSONResponse({"ready": True})


async def server(request: Request) -> Response:
    """Answer with name, version and extensions of the server."""
    return JSONResponse({"name": "xtrain", "version": __version__, "extensions": EXTENSIONS})


async def model_ready(request: Request) -> Response:
    """Answer that the model of that name is ready."""
    model = engine(request)
    return JSONResponse({"name": model.name, "ready": True})


async def metadata(request: Request) -> Response:
    """Answer with the versions and the tensors of the model."""
    model = engine(request)
    card = model.card
    outputs = [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(card.classes)]}]
    if card.explain is not None:
        outputs.append({"name": HEATMAP, "datatype": "FP32", "shape": [-1, 1, *card.shape[:2]]})
    return JSONResponse(
        {
            "name": model.name,
            "versions": models(request).versions(model.name),
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *card.shape]}],
            "outputs": outputs,
        }
    )


async def config(request: Request) -> Response:
    """Answer with Triton's description of the model, from which its clients choose the size of a batch."""
    model = engine(request)
    card = model.card
    outputs = [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [len(card.classes)]}]
    if card.explain is not None:
        outputs.append({"name": HEATMAP, "data_type": "TYPE_FP32", "dims": [1, *card.shape[:2]]})
    return JSONResponse(
        {
            "name": model.name,
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
    model = engine(request)
    metrics: Metrics = request.app.state.metrics
    counted = metrics.statistics(model)

    def duration(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    ran = duration(counted.runs, counted.run_seconds)
    one = {
        "name": model.name,
        "version": model.version,
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
