"""An asyncio micro-batcher: single requests in, runs of many images out, each request its own result back.

While a run is under way, requests queue; when it ends, the queue is the next run. So an idle server answers at once,
and a busy one forms larger batches the busier it is, with no timer to tune.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
# Takes images (N, H, W, C), returns arrays whose first axis is the images'.
Run = Callable[[Images], Sequence[NDArray[Any]]]

LATE = "no answer within the server's timeout; try again, or send less at a time"


class QueueFull(Exception):
    """No room for the request; `retry_after` seconds from now there may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The deadline passed; the request was not run, or its result was discarded."""


class Stopping(Exception):
    """The batcher takes no more requests."""


@dataclass(eq=False, slots=True)
class _Item:
    """One request: its images, how they are run, and the future of its result."""

    images: Images
    run: Run
    result: "asyncio.Future[list[NDArray[Any]]]"
    enqueued: float
    waiting: bool = True


class Batcher:
    """Queues requests and runs those of a kind together, all on one thread of its own.

    Every request gets exactly one result, its own: its slice of a run, or the error that running it alone raises. A
    batch that fails is run again request by request, so that only the request at fault fails.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int = 64,
        max_delay_ms: float = 0.0,
        max_queue: int = 1024,
        on_batch: Callable[[int, list[float], float], None] = lambda images, queued, ran: None,
    ) -> None:
        """Make an idle batcher; it starts with the first request and belongs to that request's event loop.

        Args:
            run: called on the batcher's thread, as is what a request brings instead of it.
            max_batch: images of one run; a request of more runs alone.
            max_delay_ms: how long an idle batcher waits for more before it runs less than that.
            max_queue: images that may wait; beyond, requests are refused.
            on_batch: called after every run with its images, the seconds each request was queued, the seconds it ran.
        """
        if max_batch < 1 or max_queue < 1 or max_delay_ms < 0:
            raise ValueError("max_batch and max_queue must be at least 1, max_delay_ms at least 0")
        self._run_images = run
        self.max_batch, self.max_queue, self.max_delay = max_batch, max_queue, max_delay_ms / 1000
        self._on_batch = on_batch
        self._queue: deque[_Item] = deque()
        self._rows = 0
        self._signal: asyncio.Future[None] | None = None  # what the sleeping worker waits for
        self._runs: set[asyncio.Task[None]] = set()  # the one on the thread, and one that follows it at once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._rate = 0.0  # images a second of the last runs, for Retry-After

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._rows

    async def submit(self, images: Images, timeout: float | None = None, run: Run | None = None) -> list[NDArray[Any]]:
        """Return the run's outputs for these images (n, H, W, C), n at least 1.

        Args:
            images: checked by the caller: shape and dtype are those that `run` takes.
            timeout: seconds from now after which the result is of no use.
            run: instead of the batcher's; only requests of the same one are run together.

        Raises:
            QueueFull, DeadlinePassed, Stopping: as they say.
            Exception: what `run` raised for these images alone.
        """
        if self._closing:
            raise Stopping("the server is stopping")
        if self._rows and self._rows + len(images) > self.max_queue:
            raise QueueFull(self._retry_after())
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        item = _Item(images, run or self._run_images, loop.create_future(), time.perf_counter())
        item.result.add_done_callback(partial(self._abandon, item))
        self._queue.append(item)
        self._rows += len(images)
        if not self._runs or self._rows >= self.max_batch:
            self._wake()
        alarm = None if timeout is None else loop.call_later(timeout, _expire, item)
        try:
            return await item.result
        finally:
            if alarm is not None:
                alarm.cancel()
            # An error's traceback refers to this frame, and the future to the error: with the images in the frame,
            # the cycle would keep them until the next, rare garbage collection.
            del item, images

    def on_thread(self, call: Callable[[], None]) -> None:
        """Call a function on the batcher's thread and wait for it."""
        self._thread.submit(call).result()

    def end_thread(self) -> None:
        """End the thread of a batcher to which nothing was submitted."""
        self._thread.shutdown(wait=False)

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, and end the thread."""
        self._closing = True
        self._wake()
        try:
            if self._worker is not None:
                await asyncio.shield(self._worker)  # whoever closes may give up; those who wait still get their results
        finally:
            if self._worker is None or self._worker.done():
                self._thread.shutdown()

    def _dequeue(self, item: _Item) -> None:
        """Take a request out of the count of the queue: it is about to run, or nobody waits for its result."""
        item.waiting = False
        self._rows -= len(item.images)

    def _abandon(self, item: _Item, _result: "asyncio.Future[list[NDArray[Any]]]") -> None:
        """Take a request that ended before it ran, expired or cancelled, out of the queue, and free its images."""
        if item.waiting:
            self._dequeue(item)
            item.images = item.images[:0].copy()

    def _retry_after(self) -> int:
        return max(1, math.ceil(self._rows / self._rate)) if self._rate else 1

    def _wake(self) -> None:
        if self._signal is not None and not self._signal.done():
            self._signal.set_result(None)

    async def _work(self) -> None:
        """Start runs until closed; a full one is concatenated and handed to the thread while the last one runs."""
        while await self._next_batch_ready():
            self._start()
        if self._runs:
            await asyncio.wait(self._runs)

    def _start(self) -> None:
        """Hand the next batch to the thread."""
        batch = self._take()
        run = asyncio.get_running_loop().create_task(self._run_batch(batch, self._submit(batch, _concatenated(batch))))
        self._runs.add(run)
        run.add_done_callback(self._run_ended)

    def _submit(self, batch: list[_Item], images: Images | None) -> "asyncio.Future[_Ran]":
        return asyncio.get_running_loop().run_in_executor(self._thread, self._run_on_thread, batch, images)

    def _run_ended(self, run: "asyncio.Task[None]") -> None:
        self._runs.discard(run)
        self._wake()

    def _seconds_to_next(self) -> float:
        """Return the seconds until a batch is due: none or a negative number if it is, infinite if it is not known."""
        if self._rows >= self.max_batch and len(self._runs) < 2:
            return 0.0
        if not self._rows or self._runs:
            return math.inf
        oldest = next(item for item in self._queue if item.waiting)
        return 0.0 if self._closing else oldest.enqueued + self.max_delay - time.perf_counter()

    async def _next_batch_ready(self) -> bool:
        """Wait until a batch is full and the next to run, or none runs and the delay is over; False at the end."""
        loop = asyncio.get_running_loop()
        while (seconds := self._seconds_to_next()) > 0:
            if self._closing and not self._rows:
                return False
            alarm = None if math.isinf(seconds) else loop.call_later(seconds, self._wake)
            self._signal = loop.create_future()
            await self._signal
            if alarm is not None:
                alarm.cancel()
        return True

    def _take(self) -> list[_Item]:
        """Dequeue the oldest requests of one kind that fit into one run, leaving out those whose clients have gone."""
        batch: list[_Item] = []
        others: list[_Item] = []  # of another kind; they keep their places
        rows = 0
        while self._queue:
            item = self._queue[0]
            if item.waiting:
                if batch and rows + len(item.images) > self.max_batch:
                    break
                if batch and item.run is not batch[0].run:
                    others.append(item)
                else:
                    batch.append(item)
                    rows += len(item.images)
                    self._dequeue(item)
            self._queue.popleft()
        self._queue.extendleft(reversed(others))
        return batch

    async def _run_batch(self, batch: list[_Item], running: "asyncio.Future[_Ran]") -> None:
        """Hand out the parts of a run; where it failed, run its requests one by one."""
        try:
            ran = await running
        except Exception as error:
            await self._run_singly(batch, error)
            return
        # The next one first: with dozens of requests on the loop, the thread would wait until all had their turn.
        task = asyncio.current_task()
        if task is not None:
            self._runs.discard(task)
        if self._seconds_to_next() <= 0:
            self._start()
        self._hand_out(*ran)

    async def _run_singly(self, batch: list[_Item], error: Exception) -> None:
        """Run each request of a batch that failed, so that only the one at fault does."""
        if len(batch) == 1:
            _fail(batch[0], error)
            return
        for item in batch:
            if not item.result.done():
                try:
                    self._hand_out(*await self._submit([item], item.images))
                except Exception as own:
                    _fail(item, own)

    def _hand_out(self, batch: list[_Item], outputs: Sequence[NDArray[Any]], began: float, took: float) -> None:
        """Give every request its part of a run's outputs, and count the run."""
        if not batch:
            return
        start = 0
        for item in batch:
            end = start + len(item.images)
            if not item.result.done():
                item.result.set_result([output[start:end] for output in outputs])
            start = end
        self._rate = start / max(took, 1e-6)
        try:
            self._on_batch(start, [began - item.enqueued for item in batch], took)
        except Exception:  # counting must never cost a result
            logging.getLogger(__name__).exception("a run could not be counted")

    def _run_on_thread(self, batch: list[_Item], images: Images | None) -> "_Ran":
        """Run the requests that still wait for a result; on the thread. Raise only what a future can carry.

        Returns:
            The requests that were run, their outputs, when the run began and the seconds it took.
        """
        pending = [item for item in batch if not item.result.done()]
        began = time.perf_counter()
        if not pending:
            return [], [], began, 0.0
        if len(pending) < len(batch):  # some expired meanwhile; the rest need not pay for them
            images = _concatenated(pending)
        if images is None:
            raise ValueError("requests of different shapes")
        try:
            outputs = pending[0].run(images)
        except StopIteration as error:
            raise RuntimeError("the run stopped early") from error
        if any(len(output) != len(images) for output in outputs):
            raise RuntimeError("the run's outputs are not one an image")
        return pending, outputs, began, time.perf_counter() - began


# The requests of a run, its outputs, when it began, and the seconds it took.
_Ran = tuple[list[_Item], Sequence[NDArray[Any]], float, float]


def _concatenated(batch: list[_Item]) -> Images | None:
    """Return all images in one array; None if they cannot be concatenated."""
    if len(batch) == 1:
        return batch[0].images
    try:
        return np.concatenate([item.images for item in batch])
    except (ValueError, MemoryError):
        return None


def _expire(item: _Item) -> None:
    _fail(item, DeadlinePassed(LATE))


def _fail(item: _Item, error: Exception) -> None:
    if not item.result.done():
        item.result.set_exception(error)
