"""Probabilities of a whole split, computed by all processes together."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.distributed import all_gather_rows
from training.loop.loader import Loader
from training.models.classifier import Classifier

# Rows of one validation batch: on the CPU what fits the caches, on a GPU what fills it.
BATCH_ROWS = {"cpu": 64, "cuda": 512}


@torch.inference_mode()
def predict(classifier: Classifier, loader: Loader) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) float32 of every row, in order.

    In float32 whatever the training precision is, so that the figures are those of the weights as exported.
    """
    classifier.eval()
    batches = loader.ordered_batches(BATCH_ROWS[loader.device.type])
    parts = [classifier(batch.images).softmax(dim=1) for batch in batches]
    probabilities: NDArray[np.float32] = all_gather_rows(torch.cat(parts), len(loader), loader.process).cpu().numpy()
    return probabilities
