"""Batches from uint8 tensors that live on the device: no PIL, no worker processes, one gather a batch.

Flows in: a `Split`. Flows out: (images uint8 (B, H, W, C), labels int64 (B,)) on the device, in an order that
is a function of the seed and the epoch alone, which is what makes a resumed run equal to an unbroken one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets import Split
from training.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor]


class Loader:
    """Serves one split, shuffled, balanced or in order."""

    def __init__(self, split: Split, batch_size: int, device: torch.device) -> None:
        assert split.labels is not None
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Rows of the split."""
        return len(self.images)

    @property
    def steps(self) -> int:
        """Batches a training epoch; a last batch of one row is left out, because BatchNorm cannot take it."""
        full, rest = divmod(len(self), self.batch_size)
        return full + (rest > 1)

    def draw(self, order: torch.Tensor) -> Iterator[Batch]:
        """Yield `steps` batches of the rows in `order`."""
        order = order.to(self.images.device)
        for start in range(0, self.steps * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.images.index_select(0, rows), self.labels.index_select(0, rows)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield every row once, in file order."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.images[start:stop], self.labels[start:stop]


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
