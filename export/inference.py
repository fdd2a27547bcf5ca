"""Running an ensemble in torch on the images that the exported file is compared on."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from export.graph import VIEWS, Ensemble
from training.loop.device import choose_device

BATCH_IMAGES = {"cpu": 32, "cuda": 256}  # at a time, views counted


@torch.inference_mode()
def member_probabilities(ensemble: Ensemble, images: NDArray[np.uint8], device: str) -> torch.Tensor:
    """Return each member's uncalibrated probabilities (members, N, classes) of images (N, H, W, C), on the CPU."""
    with _moved_to(ensemble, device) as target:
        parts = [
            torch.stack(ensemble.member_probabilities(batch.to(target))).cpu()
            for batch in _batches(ensemble, images, target.type)
        ]
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def heatmaps(
    ensemble: Ensemble, images: NDArray[np.uint8], device: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return probabilities (N, classes) and heatmaps (N, H, W) of images (N, H, W, C)."""
    with _moved_to(ensemble, device) as target:
        pairs = [ensemble(batch.to(target)) for batch in _batches(ensemble, images, target.type)]
    probabilities, maps = (torch.cat([pair[index].cpu() for pair in pairs]).numpy() for index in range(2))
    return probabilities, maps[:, 0]


@contextlib.contextmanager
def _moved_to(ensemble: Ensemble, device: str) -> Iterator[torch.device]:
    """Move the module to a device for the block, without TF32, whose shortened products the comparison would see."""
    target = choose_device(device)
    torch.backends.cudnn.allow_tf32 = False
    ensemble.to(target)
    try:
        yield target
    finally:
        ensemble.to("cpu")


def _batches(ensemble: Ensemble, images: NDArray[np.uint8], kind: str) -> Iterator[torch.Tensor]:
    rows = max(1, BATCH_IMAGES[kind] // (VIEWS if ensemble.tta else 1))
    for start in range(0, len(images), rows):
        yield torch.from_numpy(images[start : start + rows])
