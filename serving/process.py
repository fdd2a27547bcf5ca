"""What a server's process may use, and what it sets for itself."""

import ctypes
import gc
import logging
import math
import os
from pathlib import Path

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: a container's share of a large machine is not the machine.

    Args:
        cgroup: where the kernel tells the container's quota (`cpu.max`, or the two files of its first version).
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return here  # no quota: no such file, or "max"
    return min(here, share) if share > 0 else here  # -1 is none, too


def bound_memory() -> None:
    """Give memory back to the system; before the first thread starts, and where the C library is glibc.

    By default each thread keeps a heap of its own, and what was once asked for in megabytes is kept for the next time:
    under mixed traffic twice the resident memory, growing for minutes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_ARENA_MAX, 2)
    mallopt(M_MMAP_THRESHOLD, 256 * 1024)  # setting it ends its growth
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024)


def settle() -> None:
    """Spare every request what only costs it time; once a model is loaded, and once its forerunner has gone."""
    # What is loaded by now stays: the collector need not look at it again, nor look for the little that requests leave
    # after every few of them. Its pauses were most of the slowest hundredth of the answers.
    gc.unfreeze()  # or a model that was swapped out would stay for ever
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    logging.getLogger("uvicorn.access").propagate = False  # or uvicorn prepares a line a request that nobody writes
