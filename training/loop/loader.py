"""Batches on the device, without PIL and without worker processes.

Images that fit are uint8 tensors resident on the device, gathered by index; others are streamed from disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from training.loop.distributed import Process
from training.loop.plan import EpochPlan
from training.loop.streaming import Reader
from xtrain.data.datasets import Images, Split
from xtrain.data.mapping import MappedRows

# Share of a GPU's free memory that images may take; the rest is for weights and activations.
RESIDENT_SHARE = 0.5
CHUNK_ROWS = 1024  # copied to a GPU at one time


@dataclass(frozen=True)
class Batch:
    """This process's shard of a global batch.

    Images (B, H, W, C) uint8, labels (B,) int64, random numbers (B, columns) float32 as `Layout` describes them, and
    the rows of all processes.
    """

    images: torch.Tensor
    labels: torch.Tensor
    parts: torch.Tensor
    global_rows: int


class Loader:
    """Serves one split to one process."""

    def __init__(self, split: Split, process: Process, resident: bool | None = None) -> None:
        """Move the images to the process's device where they fit.

        Args:
            split: labelled rows.
            process: whose device and share it is.
            resident: whether the images stay on the device; None where they fit.
        """
        assert split.labels is not None
        self.process, self.device = process, process.device
        self.labels = torch.from_numpy(split.labels).to(self.device)
        resident = fits(split.images, self.device) if resident is None else resident
        self.images = to_device(split.images, self.device) if resident else None
        self.reader = None if resident else Reader(split.images, self.device)

    def __len__(self) -> int:
        """Return the rows of the split."""
        return len(self.labels)

    def training_batches(self, plan: EpochPlan, count: int | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch, or the first `count`; each holds until the next one is asked for."""
        streamed = self.reader.batches(list(plan.rows[:count])) if self.reader else None
        for rows, parts in zip(plan.device_rows[:count], plan.parts[:count], strict=True):
            images = next(streamed) if streamed else self._gathered(rows)
            yield Batch(images, self.labels.index_select(0, rows), parts, plan.global_rows)

    def ordered_batches(self, rows: int) -> Iterator[torch.Tensor]:
        """Yield the images of this process's rows `rank::world_size` once, in file order, `rows` at a time."""
        mine = torch.arange(self.process.rank, len(self), self.process.world_size)
        if self.reader:
            yield from self.reader.batches(torch.split(mine, rows))
        else:
            for part in torch.split(mine.to(self.device), rows):
                yield self._gathered(part)

    def _gathered(self, rows: torch.Tensor) -> torch.Tensor:
        assert self.images is not None
        return self.images.index_select(0, rows)


def fits(images: Images, device: torch.device) -> bool:
    """Return whether images may stay on the device: on a GPU if they fit there, else if the host holds them now."""
    if device.type != "cuda":
        return not isinstance(images, MappedRows)
    return images.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def to_device(images: Images, device: torch.device) -> torch.Tensor:
    """Return the images on the device; a GPU gets them in parts, so that the host need not hold them all."""
    if device.type == "cpu":
        return torch.from_numpy(images[:])
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK_ROWS):
        part = images[start : start + CHUNK_ROWS]
        there[start : start + len(part)] = torch.from_numpy(part)
    return there
