"""The gate: onnxruntime alone must answer as torch does, on real images, before a file takes its name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.graph import Ensemble
from training.errors import ExportError

# Float32 sums in another order: what was measured over all architectures is below 1e-6.
TOLERANCE = 1e-5
BATCH = 32

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """How far the two runtimes were apart, and what onnxruntime answered."""

    images: int
    max_difference: float
    probabilities: NDArray[np.float32]


@torch.inference_mode()
def compare(ensemble: Ensemble, predict: Predict, images: NDArray[np.uint8]) -> Parity:
    """Run all images through both.

    Args:
        ensemble: the torch module, in evaluation mode.
        predict: the exported file through onnxruntime.
        images: (N, H, W, C) uint8, N at least 1.

    Raises:
        ExportError: a difference above the tolerance or another top class, naming the image.
    """
    answers = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        expected = ensemble(torch.from_numpy(batch)).numpy()
        answer = predict(batch)
        difference = np.abs(answer - expected).max(axis=1)
        # Written so that NaN fails too.
        wrong = np.flatnonzero(~(difference <= TOLERANCE) | (answer.argmax(1) != expected.argmax(1)) & ~_tied(expected))
        if len(wrong):
            row = int(wrong[0])
            raise ExportError(
                f"onnxruntime and torch differ by {difference[row]:.2e} on image {start + row} "
                f"(allowed {TOLERANCE:.0e}, same top class); no file was written"
            )
        answers.append((answer, difference.max()))
    return Parity(len(images), float(max(gap for _, gap in answers)), np.concatenate([part for part, _ in answers]))


def _tied(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Rows whose two best classes are closer than rounding can tell apart; their order means nothing."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), bool)
    best = np.sort(probabilities, axis=1)
    tied: NDArray[np.bool_] = best[:, -1] - best[:, -2] <= 2 * TOLERANCE
    return tied
