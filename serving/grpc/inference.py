"""The methods of the gRPC service: a request message to an answer message."""

from typing import Any

import numpy as np
from starlette.applications import Starlette

from serving.grpc.messages import messages
from serving.http import infer, oip, repository
from serving.http.errors import HTTPError
from serving.model.card import HEATMAP, INPUT, OUTPUT
from serving.scheduling.engine import Engine
from serving.scheduling.models import Models
from xtrain import __version__

MAX_OUTPUTS = 8  # of a request that is looked at; a model has one or two


class Inference:
    """Answers for one app; every method takes a message and a deadline of `time.monotonic`, and returns a message."""

    def __init__(self, app: Starlette) -> None:
        """Remember the app, whose models answer."""
        self.app, self.models, self.messages = app, app.state.models, messages()

    def find(self, name: str, version: str) -> Engine:
        """Return the engine of a model, of its latest version for an empty one.

        Raises:
            HTTPError: 422, no name.
            NoModel, ModelNotFound: as `Models.find`.
        """
        loaded: Models = self.models
        if not name:
            raise HTTPError(422, "the request names no model")
        return loaded.find(name, version or None)

    async def server_live(self, request: Any, deadline: float) -> Any:
        """Answer that the server is alive."""
        return self.messages["ServerLiveResponse"](live=True)

    async def server_ready(self, request: Any, deadline: float) -> Any:
        """Answer whether the default model is ready."""
        return self.messages["ServerReadyResponse"](ready=self.models.ready)

    async def model_ready(self, request: Any, deadline: float) -> Any:
        """Answer that a model is ready; one that is not loaded is not found."""
        self.find(request.name, request.version)
        return self.messages["ModelReadyResponse"](ready=True)

    async def server_metadata(self, request: Any, deadline: float) -> Any:
        """Answer with name, version and extensions of the server."""
        return self.messages["ServerMetadataResponse"](name="xtrain", version=__version__, extensions=oip.EXTENSIONS)

    async def model_metadata(self, request: Any, deadline: float) -> Any:
        """Answer with the versions and the tensors of a model."""
        engine = self.find(request.name, request.version)
        card, tensor = engine.card, self.messages["TensorMetadata"]
        outputs = [tensor(name=OUTPUT, datatype="FP32", shape=[-1, len(card.classes)])]
        if card.explain is not None:
            outputs.append(tensor(name=HEATMAP, datatype="FP32", shape=[-1, 1, *card.shape[:2]]))
        return self.messages["ModelMetadataResponse"](
            name=engine.name,
            versions=self.models.versions(engine.name),
            platform="onnxruntime_onnx",
            inputs=[tensor(name=INPUT, datatype="UINT8", shape=[-1, *card.shape])],
            outputs=outputs,
        )

    async def model_infer(self, request: Any, deadline: float) -> Any:
        """Run a model on one tensor of images; the outputs are raw, as the clients of Triton and KServe read them."""
        engine = self.find(request.model_name, request.model_version)
        engine.acquire()
        try:
            return await self._infer(engine, request, deadline)
        finally:
            engine.release()

    async def repository_index(self, request: Any, deadline: float) -> Any:
        """Answer with every model of the repository, and whether it is loaded."""
        entries = await repository.described(self.models, only_ready=request.ready)
        index = self.messages["ModelIndex"]
        return self.messages["RepositoryIndexResponse"](models=[index(**entry) for entry in entries])

    async def repository_model_load(self, request: Any, deadline: float) -> Any:
        """Load all versions of a model, or load them anew."""
        if request.parameters:
            raise HTTPError(422, repository.NO_PARAMETERS)
        await repository.to_the_end(self.app, repository.load_model(self.app, request.model_name))
        return self.messages["RepositoryModelLoadResponse"]()

    async def repository_model_unload(self, request: Any, deadline: float) -> Any:
        """Take all versions of a model out."""
        await repository.to_the_end(self.app, repository.unload_model(self.app, request.model_name))
        return self.messages["RepositoryModelUnloadResponse"]()

    async def _infer(self, engine: Engine, request: Any, deadline: float) -> Any:
        if len(request.inputs) != 1 or len(request.outputs) > MAX_OUTPUTS:
            raise HTTPError(422, f"the request needs one input, {INPUT}, and at most {MAX_OUTPUTS} outputs")
        head: dict[str, Any] = {
            "inputs": [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
                for tensor in request.inputs
            ],
            "outputs": [
                {"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs
            ],
        }
        pixels, binary = None, memoryview(b"")
        if request.raw_input_contents:
            if len(request.raw_input_contents) != len(request.inputs):
                raise HTTPError(400, "raw_input_contents are not as many as inputs")
            binary = memoryview(request.raw_input_contents[0])
            head["inputs"][0]["parameters"] = {"binary_data_size": len(binary)}
        elif request.inputs:
            values = request.inputs[0].contents.uint_contents
            if not values or max(values) > 255:
                raise HTTPError(422, "the input has neither raw_input_contents nor uint_contents from 0 to 255")
            pixels = np.array(values, np.uint8)
        images = infer.input_images(head, pixels, binary, engine)
        tensors = await infer.run(engine, images, infer.requested_outputs(head, engine), deadline)
        described = self.messages["InferOutputTensor"]
        outputs = [
            described(name=output.name, datatype=tensor.datatype, shape=tensor.values.shape)
            for output, tensor in tensors
        ]
        return self.messages["ModelInferResponse"](
            model_name=engine.name,
            model_version=engine.version,
            id=request.id,
            outputs=outputs,
            raw_output_contents=[tensor.raw() for _, tensor in tensors],
        )


def _parameters(parameters: Any) -> dict[str, Any]:
    """Return a message's parameters by name."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in parameters.items()
    }
