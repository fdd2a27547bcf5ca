"""Batches on the device, without PIL and without worker processes.

Images that fit are uint8 tensors resident on the device, gathered by index; others are read from disk by one
thread, a batch ahead, through pinned buffers. The order is a function of the seed and the epoch alone, which
makes a resumed run equal to an unbroken one, and every process of several takes its shard of the same order.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.distributed import Process
from xtrain.data.datasets import Split
from xtrain.data.mapping import MappedRows
from xtrain.errors import DataError

# Share of a GPU's free memory that images may take; the rest is for weights and activations.
RESIDENT_SHARE = 0.4


@dataclass(frozen=True)
class Batch:
    """This process's shard of a global batch: images (B, H, W, C) uint8, labels (B,) int64, rows of all processes."""

    images: torch.Tensor
    labels: torch.Tensor
    global_rows: int


class Loader:
    """Serves one split to one process."""

    def __init__(self, split: Split, batch_size: int, process: Process) -> None:
        """Move the images to the process's device where they fit; `batch_size` is the global one."""
        assert split.labels is not None
        self.process, self.device, self.batch_size = process, process.device, batch_size
        device = process.device
        self.labels = torch.from_numpy(split.labels).to(device)
        self.streamed = isinstance(split.images, MappedRows) or not _fits(split.images.nbytes, device)
        self.source = split.images
        self.images = None if self.streamed else torch.from_numpy(split.images[:]).to(device)

    def __len__(self) -> int:
        """Return the rows of the split."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches a training epoch.

        A last batch with fewer than two rows for some process is left out, because BatchNorm cannot train on one.
        """
        full, rest = divmod(len(self), self.batch_size)
        return full + (rest >= 2 * self.process.world_size)

    @property
    def rows_an_epoch(self) -> int:
        """Rows a training epoch uses, over all processes."""
        return min(len(self), self.steps * self.batch_size)

    def training_batches(self, order: torch.Tensor) -> Iterator[Batch]:
        """Yield `steps` batches of the rows in `order`."""
        starts = range(0, self.steps * self.batch_size, self.batch_size)
        return self._batches([order[start : start + self.batch_size] for start in starts])

    def ordered_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield this process's rows `rank::world_size` once, in file order."""
        return self._batches(torch.split(torch.arange(len(self)), batch_size * self.process.world_size))

    def _batches(self, batches: Sequence[torch.Tensor]) -> Iterator[Batch]:
        shards = [rows[self.process.rank :: self.process.world_size] for rows in batches]
        images = self._streamed(shards) if self.images is None else self._resident(self.images, shards)
        for rows, shard, part in zip(batches, shards, images, strict=True):
            yield Batch(part, self.labels.index_select(0, shard.to(self.device)), len(rows))

    def _resident(self, images: torch.Tensor, shards: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for rows in shards:
            yield images.index_select(0, rows.to(self.device, non_blocking=True))

    def _streamed(self, shards: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Read a batch ahead in one thread; pinned memory lets the copy to a GPU overlap its work."""

        def read(rows: torch.Tensor) -> torch.Tensor:
            part = torch.from_numpy(self.source[rows.numpy()])
            return part.pin_memory() if self.device.type == "cuda" else part

        with ThreadPoolExecutor(1, "loader") as reader:
            ahead = reader.submit(read, shards[0]) if shards else None
            for index in range(len(shards)):
                assert ahead is not None
                part = ahead.result()
                ahead = reader.submit(read, shards[index + 1]) if index + 1 < len(shards) else None
                yield part.to(self.device, non_blocking=True)


def _fits(size: int, device: torch.device) -> bool:
    """Return whether images of that many bytes may stay on the device; the host's memory was checked before."""
    return device.type != "cuda" or size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the rows of each class."""
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def balanced_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> torch.Tensor:
    """Return the sampling weight of every row (N,), 1/count of its class, so that all classes are drawn equally often.

    Raises:
        DataError: a class has no row to draw.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [f"{index} ({name})" for index, name in enumerate(classes) if counts[index] == 0]
    if absent:
        raise DataError(f"class {', '.join(absent)} has no training row to balance; add rows or use --no-balance")
    return torch.from_numpy(1.0 / counts[labels])


def shuffled(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Return every row once, in random order."""
    return torch.randperm(rows, generator=generator)


def balanced(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return as many rows as there are, drawn with replacement: what torch's WeightedRandomSampler does.

    `torch.multinomial` stops at 2**24 categories; inverting the cumulative sum has no such limit.
    """
    cumulative = weights.cumsum(0)
    draws = torch.rand(len(weights), generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(weights) - 1)
