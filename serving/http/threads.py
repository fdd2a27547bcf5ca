"""Running what would block the event loop on a thread."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T]) -> T:
    """Return `call()`, computed on a thread of the pool.

    A thread cannot be stopped. Where the request is cancelled because its client has gone, the cancellation waits for
    the thread: otherwise clients that send and leave could have more threads at work than the pool has, with memory
    that is no longer counted.
    """
    task = asyncio.ensure_future(run_in_threadpool(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is left to be told; asyncio would log it
        raise
