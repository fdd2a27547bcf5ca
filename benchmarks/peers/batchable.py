"""The same predictor as a batchable BentoML API, images as JSON; the model's path comes in XTRAIN_MODEL."""

import os

import bentoml
import numpy as np

from serving.model.predictor import Predictor


@bentoml.service(name="batchable")
class Batchable:
    """BentoML's own adaptive batching."""

    def __init__(self) -> None:
        self.predictor = Predictor(os.environ["XTRAIN_MODEL"], "cpu")

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of images (N, H, W, C)."""
        return self.predictor.predict(images.astype(np.uint8))
