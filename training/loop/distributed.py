"""Processes that train together: who am I, and the few things they must agree on.

The environment is torchrun's (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`); without it there is one process and every
function here is free. Every process draws the same random rows and works on every `world`-th of them, so that
the global batch, and with it the result, does not depend on how many there are.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from xtrain.errors import ConfigError


@dataclass(frozen=True)
class Team:
    """This process among those that train together: rank 0 writes and speaks."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the processes that torchrun started (NCCL on CUDA, Gloo on the CPU) and leave them at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team()
        return
    team = Team(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield team
        # Nobody leaves while another still works: the launcher ends all when one has gone, and the leading
        # process writes its report last.
        dist.barrier()
    finally:
        # Gloo aborts the process if its group is freed while the interpreter shuts down; DistributedDataParallel
        # holds it in reference cycles until they are collected.
        gc.collect()
        dist.destroy_process_group()


def check_batch(batch_size: int, world: int) -> None:
    """Refuse a global batch that leaves a process with fewer than two images.

    Raises:
        ConfigError: with the smallest batch size that works.
    """
    if batch_size < 2 * world:
        raise ConfigError(f"--batch-size {batch_size} is too small for {world} processes; use at least {2 * world}")


def gather_rows(part: torch.Tensor, rows: int, team: Team) -> torch.Tensor:
    """Put together what every process computed for its rows `rank::world`, in row order.

    Args:
        part: (rows of this process, columns).
        rows: of all processes together.
        team: this process.
    """
    if team.world == 1:
        return part
    longest = -(-rows // team.world)
    padded = part.new_zeros((longest, *part.shape[1:]))
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(team.world)]
    dist.all_gather(parts, padded)
    # Row r * world + k is row r of process k: interleave, then cut the padding off.
    return torch.stack(parts, dim=1).flatten(0, 1)[:rows]


def sum_over(value: torch.Tensor, team: Team) -> torch.Tensor:
    """The sum of every process's tensor."""
    if team.world > 1:
        dist.all_reduce(value)
    return value


def least_over(value: torch.Tensor, team: Team) -> torch.Tensor:
    """The smallest of every process's tensor."""
    if team.world > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)
    return value


def share_buffers(network: torch.nn.Module, team: Team) -> None:
    """Give every process rank 0's buffers: without a GPU, BatchNorm's running statistics are each process's own."""
    if team.world > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
