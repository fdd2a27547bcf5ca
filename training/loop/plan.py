"""An epoch laid out before it begins: which rows each batch holds, and the random numbers of their augmentation.

Flows in: a split's labels, a generator that is a function of seed and epoch, the layout of the augmentation. Flows
out: this process's share as tensors on its device, which got there in one copy; a step only slices them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.distributed import Process
from training.loop.draw import Layout
from xtrain.errors import DataError


@dataclass(frozen=True)
class BatchShape:
    """How a split is divided into batches of one shape.

    Attributes:
        rows: images of every batch, over all processes.
        batches: of an epoch. The last one is filled with rows of the next order, so that every batch has one shape.
    """

    rows: int
    batches: int

    @classmethod
    def of(cls, split_rows: int, batch_size: int, accumulate: int, world_size: int) -> "BatchShape":
        """Return the shape for a split; a batch is never larger than the split.

        Raises:
            DataError: fewer rows than two for every process, and BatchNorm cannot train on one.
        """
        if split_rows < 2 * world_size:
            raise DataError(
                f"{split_rows} training rows are too few for {world_size} processes; use at least {2 * world_size}, "
                "or fewer processes"
            )
        rows = min(batch_size, split_rows)
        return cls(rows, -(-split_rows // (rows * accumulate)) * accumulate)


@dataclass(frozen=True)
class EpochPlan:
    """This process's share of an epoch.

    Attributes:
        rows: numbers of the rows (batches, B) int64 on the CPU, for those who read them from disk.
        device_rows: the same on the device.
        parts: random numbers (batches, B, columns) float32 on the device, as `Layout` describes them.
        global_rows: rows of a batch over all processes.
    """

    rows: torch.Tensor
    device_rows: torch.Tensor
    parts: torch.Tensor
    global_rows: int


def plan_epoch(
    order: Callable[[int, torch.Generator], torch.Tensor],
    shape: BatchShape,
    layout: Layout,
    process: Process,
    generator: torch.Generator,
) -> EpochPlan:
    """Draw an epoch, the same on every process, and put this one's share on its device in one copy.

    Args:
        order: draws so many row numbers.
        shape: of the batches.
        layout: of the random numbers of an image.
        process: this one among those that train together; it takes every `world_size`-th row of a batch.
        generator: on the CPU.
    """
    total = shape.rows * shape.batches
    rows = order(total, generator)
    block = layout.draw(total, generator)
    mine = slice(process.rank, None, process.world_size)
    rows = rows.view(shape.batches, shape.rows)[:, mine].contiguous()
    block = block.view(shape.batches, shape.rows, layout.columns)[:, mine].contiguous()
    device_rows, parts = _copy_at_once(rows, block, process.device)
    return EpochPlan(rows, device_rows, parts, shape.rows)


def _copy_at_once(rows: torch.Tensor, block: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both on the device: one pinned buffer, one copy that the host does not wait for."""
    if device.type == "cpu":
        return rows, block
    packed = torch.empty(rows.nbytes + block.nbytes, dtype=torch.uint8, pin_memory=True)
    packed[: rows.nbytes] = rows.flatten().view(torch.uint8)
    packed[rows.nbytes :] = block.flatten().view(torch.uint8)
    there = packed.to(device, non_blocking=True)
    return (
        there[: rows.nbytes].view(torch.int64).view(rows.shape),
        there[rows.nbytes :].view(torch.float32).view(block.shape),
    )


class Shuffled:
    """Every row once, in random order, and again where more are asked for."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return `count` row numbers."""
        orders = [torch.randperm(self.rows, generator=generator) for _ in range(-(-count // self.rows))]
        return torch.cat(orders)[:count]


class Balanced:
    """Rows drawn with replacement by their weights: what torch's WeightedRandomSampler does.

    `torch.multinomial` stops at 2**24 categories; inverting the cumulative sum has no such limit.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self.cumulative = weights.cumsum(0)

    def __call__(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return `count` row numbers."""
        draws = torch.rand(count, generator=generator, dtype=torch.float64) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, draws, right=True).clamp_(max=len(self.cumulative) - 1)


def class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the rows of each class."""
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def balanced_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> torch.Tensor:
    """Return the sampling weight of every row (N,), 1/count of its class, so that all classes are drawn equally often.

    Raises:
        DataError: a class has no row to draw.
    """
    return inverse_counts(labels, classes, "balance; add rows or use --no-balance")[torch.from_numpy(labels)]


def class_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> torch.Tensor:
    """Return the factor of each class's loss (classes,) float32, inverse to its rows; their mean over the rows is 1.

    Raises:
        DataError: a class has no row.
    """
    inverse = inverse_counts(labels, classes, "weight; add rows or leave --class-weights out")
    return (inverse * (len(labels) / len(classes))).float()


def inverse_counts(labels: NDArray[np.int64], classes: Sequence[str], advice: str) -> torch.Tensor:
    """Return 1/rows of every class (classes,) float64.

    Raises:
        DataError: a class has no row; `advice` says what for and what to do.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [f"{index} ({name})" for index, name in enumerate(classes) if counts[index] == 0]
    if absent:
        raise DataError(f"class {', '.join(absent)} has no training row to {advice}")
    return torch.from_numpy(1.0 / counts)
