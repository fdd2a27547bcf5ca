"""Processes that train together: which one this is, and the collective operations that the loop needs.

The environment is torchrun's (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`); without it there is one process and every
function here is free. Every process draws the same random rows and works on every `world_size`-th of them, so that
the global batch, and with it the result, does not depend on how many there are.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from xtrain.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Process:
    """This process among those that train together, and its device; rank 0 writes and prints."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[Process]:
    """Join the processes that torchrun started (NCCL on CUDA, Gloo on the CPU) and leave them at the end.

    Within another such block it is the same group: one that is left and joined anew finds the addresses of the first
    in torchrun's store, and waits for them.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Process(device)
        return
    process, within = Process(device, int(os.environ["RANK"]), world_size), dist.is_initialized()
    if not within:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield process
        # Nobody leaves while another still works: the launcher ends all when one has gone, and the main
        # process writes its report last.
        dist.barrier()
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, dist.DistError) and not any(word in message.lower() for word in ("gloo", "nccl")):
            raise
        reason = message.strip().splitlines()[0]
        raise TrainingError(
            f"the connection to the other processes broke ({reason}); one of them has ended: its own message says why, "
            "and --resume goes on after the last whole epoch"
        ) from error
    finally:
        if not within:
            # Gloo aborts the process if its group is freed while the interpreter shuts down; DistributedDataParallel
            # holds it in reference cycles until they are collected.
            gc.collect()
            dist.destroy_process_group()


@contextmanager
def first_of_machine(process: Process) -> Iterator[None]:
    """Let the first process of each machine do something before the others, such as fetching a file they all read."""
    if process.world_size == 1:
        yield
        return
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        dist.barrier()
    try:
        yield
    finally:
        if first:
            dist.barrier()


def check_batch(batch_size: int, world_size: int) -> None:
    """Refuse a global batch that leaves a process with fewer than two images.

    Raises:
        ConfigError: with the smallest batch size that works.
    """
    if batch_size < 2 * world_size:
        raise ConfigError(
            f"--batch-size {batch_size} is too small for {world_size} processes; use at least {2 * world_size}"
        )


def all_gather_rows(part: torch.Tensor, rows: int, process: Process) -> torch.Tensor:
    """Return what all processes computed for their rows `rank::world_size`, in row order.

    Args:
        part: (rows of this process, columns).
        rows: of all processes together.
        process: this process.
    """
    if process.world_size == 1:
        return part
    longest = -(-rows // process.world_size)
    padded = part.new_zeros((longest, *part.shape[1:]))
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(process.world_size)]
    dist.all_gather(parts, padded)
    # Row r * world_size + k is row r of process k: interleave, then cut the padding off.
    return torch.stack(parts, dim=1).flatten(0, 1)[:rows]


def all_reduce_sum(value: torch.Tensor, process: Process) -> torch.Tensor:
    """Return the sum of every process's tensor, computed in place."""
    if process.world_size > 1:
        dist.all_reduce(value)
    return value


def all_reduce_min(value: torch.Tensor, process: Process) -> torch.Tensor:
    """Return the element-wise minimum of every process's tensor, computed in place."""
    if process.world_size > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)
    return value


def all_reduce_max(value: torch.Tensor, process: Process) -> torch.Tensor:
    """Return the element-wise maximum of every process's tensor, computed in place."""
    if process.world_size > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def broadcast_buffers(network: torch.nn.Module, process: Process) -> None:
    """Give every process rank 0's buffers: without a GPU, BatchNorm's running statistics are each process's own."""
    if process.world_size > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
