"""Probabilities of a whole split, computed by all processes together."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.device import strict_float32
from training.loop.distributed import all_gather_rows
from training.loop.loader import Loader
from training.models.classifier import Classifier

CPU_ROWS = 64  # of a validation batch, what fits the caches
LEAST_ROWS, MOST_ROWS = 64, 4096  # on a GPU, what fills it
FREE_SHARE = 0.5  # of a GPU's free memory that validation may take


def batch_rows(device: torch.device, bytes_a_row: int = 1) -> int:
    """Return how many images are validated at one time: on a GPU as many as its free memory holds.

    Args:
        device: where.
        bytes_a_row: what one image needs at most.
    """
    if device.type != "cuda":
        return CPU_ROWS
    fitting = int(FREE_SHARE * torch.cuda.mem_get_info(device)[0]) // max(1, bytes_a_row)
    return min(MOST_ROWS, max(LEAST_ROWS, 1 << max(0, fitting.bit_length() - 1)))


@torch.inference_mode()
def predict(
    classifier: Classifier,
    loader: Loader,
    rows: int = CPU_ROWS,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) float32 of every row, in order.

    In float32 whatever the training precision is, so that the figures are those of the weights as exported.

    Args:
        classifier: put into evaluation mode.
        loader: of the split.
        rows: of a batch, every one of which is full, so that a compiled network sees one shape.
        forward: the classifier compiled; None to call it.
    """
    classifier.eval()
    network = classifier if forward is None else forward

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        count, missing = len(images), rows - len(images)
        if forward is not None and missing:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
        return network(images)[:count].softmax(dim=1)

    with strict_float32():
        parts = [probabilities(images) for images in loader.ordered_batches(rows)]
    mine = torch.cat(parts) if parts else torch.empty(0, len(classifier.spec.classes), device=loader.device)
    together: NDArray[np.float32] = all_gather_rows(mine, len(loader), loader.process).cpu().numpy()
    return together
