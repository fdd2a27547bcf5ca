"""Batches on the device, without PIL and without worker processes.

Images that fit are uint8 tensors resident on the device, gathered by index; others are read from disk by one
thread, a batch ahead, through pinned buffers. The order is a function of the seed and the epoch alone, which
makes a resumed run equal to an unbroken one, and every process of several takes its share of the same order.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xtrain.data.datasets import Split
from training.loop.distributed import Team
from xtrain.errors import DataError
from xtrain.data.mapping import MappedRows

# Share of a GPU's free memory that images may take; the rest is for weights and activations.
RESIDENT_SHARE = 0.4


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch: images (B, H, W, C) uint8, labels (B,) int64, rows of all processes."""

    images: torch.Tensor
    labels: torch.Tensor
    total: int


class Loader:
    """Serves one split to one process."""

    def __init__(self, split: Split, batch_size: int, device: torch.device, team: Team | None = None) -> None:
        assert split.labels is not None
        self.team = team or Team()
        self.device, self.batch_size = device, batch_size
        self.labels = torch.from_numpy(split.labels).to(device)
        self.streamed = isinstance(split.images, MappedRows) or not _fits(split.images.nbytes, device)
        self.source = split.images
        self.images = None if self.streamed else torch.from_numpy(split.images[:]).to(device)

    def __len__(self) -> int:
        """Rows of the split."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches a training epoch.

        A last batch with fewer than two rows for some process is left out, because BatchNorm cannot train on one.
        """
        full, rest = divmod(len(self), self.batch_size)
        return full + (rest >= 2 * self.team.world)

    @property
    def rows_an_epoch(self) -> int:
        """Rows a training epoch uses, over all processes."""
        return min(len(self), self.steps * self.batch_size)

    def draw(self, order: torch.Tensor) -> Iterator[Batch]:
        """Yield `steps` batches of the rows in `order`."""
        starts = range(0, self.steps * self.batch_size, self.batch_size)
        return self._serve([order[start : start + self.batch_size] for start in starts])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield this process's rows `rank::world` once, in file order."""
        return self._serve(torch.split(torch.arange(len(self)), batch_size * self.team.world))

    def _serve(self, batches: Sequence[torch.Tensor]) -> Iterator[Batch]:
        shares = [rows[self.team.rank :: self.team.world] for rows in batches]
        images = self._stream(shares) if self.images is None else self._gather(self.images, shares)
        for rows, share, part in zip(batches, shares, images, strict=True):
            yield Batch(part, self.labels.index_select(0, share.to(self.device)), len(rows))

    def _gather(self, images: torch.Tensor, shares: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for rows in shares:
            yield images.index_select(0, rows.to(self.device, non_blocking=True))

    def _stream(self, shares: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Read a batch ahead in one thread; pinned memory lets the copy to a GPU overlap its work."""

        def read(rows: torch.Tensor) -> torch.Tensor:
            part = torch.from_numpy(self.source[rows.numpy()])
            return part.pin_memory() if self.device.type == "cuda" else part

        with ThreadPoolExecutor(1, "loader") as reader:
            ahead = reader.submit(read, shares[0]) if shares else None
            for index in range(len(shares)):
                assert ahead is not None
                part = ahead.result()
                ahead = reader.submit(read, shares[index + 1]) if index + 1 < len(shares) else None
                yield part.to(self.device, non_blocking=True)


def _fits(size: int, device: torch.device) -> bool:
    """Whether images of that many bytes may stay on the device; host memory was decided on when they were read."""
    return device.type != "cuda" or size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Rows of each class."""
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def balanced_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> torch.Tensor:
    """Sampling weight 1/count of its class for every row (N,), so that all classes are drawn alike.

    Raises:
        DataError: a class has no row to draw.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [f"{index} ({name})" for index, name in enumerate(classes) if counts[index] == 0]
    if absent:
        raise DataError(f"class {', '.join(absent)} has no training row to balance; add rows or use --no-balance")
    return torch.from_numpy(1.0 / counts[labels])


def shuffled(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Every row once, in random order."""
    return torch.randperm(rows, generator=generator)


def balanced(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As many rows as there are, drawn with replacement: what torch's WeightedRandomSampler does.

    `torch.multinomial` stops at 2**24 categories; inverting the cumulative sum has no such limit.
    """
    cumulative = weights.cumsum(0)
    draws = torch.rand(len(weights), generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(weights) - 1)
