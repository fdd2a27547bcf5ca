"""The same predictor in LitServe, an image or an array of one as a form's file, batched by its own batching.

python -m benchmarks.peers.lit MODEL PORT
"""

import io
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from serving.model.predictor import Predictor
from xtrain.images import decode


class API(litserve.LitAPI):  # type: ignore[misc]
    """One image a request."""

    def setup(self, device: str) -> None:
        """Load the file in the worker."""
        self.predictor = Predictor(sys.argv[1], "cpu")

    def decode_request(self, request: Request) -> np.ndarray:
        """The file of the form, which LitServe has parsed by now."""
        form: Any = request
        content = form["image"].file.read()
        if content.startswith(b"\x93NUMPY"):
            return np.asarray(np.load(io.BytesIO(content))[0])
        return decode(content, self.predictor.card.shape)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """One array of all."""
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """Probabilities of all."""
        return list(self.predictor.predict(images))

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        """One each."""
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """What our own answer holds, without the names."""
        return {"class": int(output.argmax()), "probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(API(max_batch_size=64, batch_timeout=0.002), accelerator="cpu")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")
