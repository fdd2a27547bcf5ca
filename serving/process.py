"""What a server sets for its whole process: the C library's heap, the garbage collector, uvicorn's logger."""

import ctypes
import gc
import logging
import signal
import sys

# Of glibc's malloc.h.
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def limit_heap() -> None:
    """Make glibc return memory to the system; before the first thread starts, a no-op with another C library.

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


def freeze_garbage_collector() -> None:
    """Exempt what is loaded by now from garbage collection, and collect rarely.

    Called once a model is loaded, and once a model that was swapped out is gone. The collector's pauses were most of
    the slowest hundredth of the responses.
    """
    gc.unfreeze()  # or a model that was swapped out would stay for ever
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def silence_access_log() -> None:
    """Keep uvicorn from formatting a log line a request that nobody writes; the app writes its own."""
    logging.getLogger("uvicorn.access").propagate = False


def allow_files(connections: int) -> None:
    """Let this process open a file for each connection, as far as the system allows, and some more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + 1024
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ends; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def say(message: str) -> None:
    """Tell the operator something, on the server's stderr."""
    print(message, file=sys.stderr, flush=True)
