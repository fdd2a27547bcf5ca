"""Every request gets exactly one answer, its own, in any interleaving; and the limits hold."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.scheduling.batcher import Batcher, DeadlinePassed, QueueFull, Stopping

POISON = 255


class Runner:
    """Doubles and squares each image's value; fails if one is poisoned; remembers what it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.runs, self.inside = seconds, [], 0

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        self.inside += 1
        assert self.inside == 1, "two runs at once"
        try:
            self.runs.append(images[:, 0, 0, 0].tolist())
            time.sleep(self.seconds)
            if (images == POISON).any():
                raise RuntimeError("poisoned")
            values = images[:, 0, 0, 0].astype(np.int64)
            return [values * 2, values**2]
        finally:
            self.inside -= 1


def images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def play(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


@dataclass
class Request:
    """One client of a scenario: its images, when it comes, when it goes away, how long it waits."""

    values: list[int]
    pause: int
    leaves: int | None
    timeout: float | None


requests = st.builds(
    Request,
    values=st.lists(st.one_of(st.integers(0, 254), st.integers(0, 254), st.just(POISON)), min_size=1, max_size=5),
    pause=st.integers(0, 3),
    leaves=st.one_of(st.none(), st.none(), st.integers(0, 4)),
    timeout=st.one_of(st.none(), st.none(), st.sampled_from([0.0, 0.0005, 5.0])),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scenario=st.lists(requests, min_size=1, max_size=25),
    max_batch=st.integers(1, 8),
    max_delay_ms=st.sampled_from([0.0, 0.2, 1.0]),
    max_queue=st.sampled_from([6, 1000]),
    seconds=st.sampled_from([0.0, 0.0002]),
)
def test_exactly_one_answer_and_its_own(
    scenario: list[Request], max_batch: int, max_delay_ms: float, max_queue: int, seconds: float
) -> None:
    runner = Runner(seconds)

    async def client(batcher: Batcher, request: Request) -> Any:
        try:
            return await batcher.submit(images(*request.values), request.timeout)
        except (RuntimeError, DeadlinePassed, QueueFull) as error:
            return error

    async def main() -> list[Any]:
        batcher = Batcher(runner, max_batch=max_batch, max_delay_ms=max_delay_ms, max_queue=max_queue)
        tasks = []
        for request in scenario:
            for _ in range(request.pause):
                await asyncio.sleep(0)
            task = asyncio.create_task(client(batcher, request))
            tasks.append(task)
            if request.leaves is not None:
                for _ in range(request.leaves):
                    await asyncio.sleep(0)
                task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        assert batcher.waiting == 0
        return answers

    for request, answer in zip(scenario, play(main()), strict=True):
        if isinstance(answer, asyncio.CancelledError):
            assert request.leaves is not None
        elif isinstance(answer, RuntimeError):
            assert POISON in request.values, "an innocent request failed"
        elif isinstance(answer, DeadlinePassed):
            assert request.timeout is not None and request.timeout < 1
        elif isinstance(answer, QueueFull):
            assert max_queue == 6 and answer.retry_after >= 1
        else:
            assert POISON not in request.values
            doubled, squared = answer
            assert doubled.tolist() == [value * 2 for value in request.values]
            assert squared.tolist() == [value**2 for value in request.values]
    for run in runner.runs:
        assert len(run) <= max_batch or any(run == request.values for request in scenario)


def test_what_gathers_during_a_run_is_the_next_run() -> None:
    runner = Runner(0.05)

    async def main() -> None:
        batcher = Batcher(runner, max_batch=8)
        first = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, *(batcher.submit(images(value)) for value in range(1, 12)))
        await batcher.close()

    play(main())
    assert runner.runs == [[0], list(range(1, 9)), [9, 10, 11]]


def test_an_idle_batcher_waits_no_longer_than_the_delay() -> None:
    runner = Runner()

    async def main() -> float:
        batcher = Batcher(runner, max_batch=4, max_delay_ms=50)
        began = time.perf_counter()
        first = asyncio.create_task(batcher.submit(images(1)))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, batcher.submit(images(2)))
        took = time.perf_counter() - began
        await asyncio.gather(*(batcher.submit(images(value)) for value in range(4)))  # full: at once
        assert time.perf_counter() - began - took < 0.045
        await batcher.close()
        return took

    assert 0.045 <= play(main()) < 0.5
    assert runner.runs == [[1, 2], [0, 1, 2, 3]]


def test_a_full_queue_refuses_and_recovers() -> None:
    runner = Runner(0.02)

    async def main() -> None:
        batcher = Batcher(runner, max_batch=2, max_queue=4)
        running = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.005)
        waiting = [asyncio.create_task(batcher.submit(images(value))) for value in range(1, 5)]
        await asyncio.sleep(0.005)
        with pytest.raises(QueueFull):
            await batcher.submit(images(9, 9, 9, 9))
        await asyncio.gather(running, *waiting)
        (doubled, _) = await batcher.submit(images(*range(10)))  # more than the queue holds, but nobody waits
        assert doubled.tolist() == [value * 2 for value in range(10)]
        await batcher.close()

    play(main())


def test_those_who_left_cost_no_run() -> None:
    runner = Runner(0.05)

    async def main() -> None:
        batcher = Batcher(runner, max_batch=2)
        running = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.01)
        gone = [asyncio.create_task(batcher.submit(images(value))) for value in (1, 2, 3)]
        late = asyncio.create_task(batcher.submit(images(4), timeout=0.001))
        stays = asyncio.create_task(batcher.submit(images(5)))
        await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        with pytest.raises(DeadlinePassed):
            await late
        await asyncio.gather(running, stays)
        await batcher.close()

    play(main())
    assert runner.runs == [[0], [5]]


def test_what_ended_before_it_ran_frees_its_images_at_once() -> None:
    """Without a garbage collection, which the server lets happen rarely: no cycle holds them."""

    class Tracked(np.ndarray):
        pass

    async def main() -> list[bool]:
        batcher = Batcher(Runner(0.05), max_batch=2)
        running = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.01)
        references = []
        for timeout in (None, 0.001):
            tracked = images(1).view(Tracked)
            references.append(weakref.ref(tracked))
            task = asyncio.create_task(batcher.submit(tracked, timeout))
            del tracked
            await asyncio.sleep(0)
            if timeout is None:
                task.cancel()
            with pytest.raises(asyncio.CancelledError if timeout is None else DeadlinePassed):
                await task
            del task
        await asyncio.sleep(0.01)
        freed = [reference() is None for reference in references]
        await running
        await batcher.close()
        return freed

    gc.disable()
    try:
        assert play(main()) == [True, True]
    finally:
        gc.enable()


def test_only_the_guilty_fails() -> None:
    runner = Runner(0.01)

    async def main() -> list[Any]:
        batcher = Batcher(runner, max_batch=8)
        running = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.002)
        answers = await asyncio.gather(
            *(batcher.submit(images(value)) for value in (1, POISON, 3)), return_exceptions=True
        )
        await running
        await batcher.close()
        return answers

    first, second, third = play(main())
    assert first[0].tolist() == [2] and third[0].tolist() == [6] and isinstance(second, RuntimeError)
    assert runner.runs == [[0], [1, POISON, 3], [1], [POISON], [3]]


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    runner = Runner(0.02)

    async def main() -> None:
        batcher = Batcher(runner, max_batch=2)
        tasks = [asyncio.create_task(batcher.submit(images(value))) for value in range(5)]
        await asyncio.sleep(0.005)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await batcher.submit(images(1))
        assert [answer[0].tolist() for answer in await asyncio.gather(*tasks)] == [[value * 2] for value in range(5)]
        await closing

    play(main())
    assert not any(thread.name.startswith("batcher") for thread in threading.enumerate())


def test_runs_are_observed() -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        batcher = Batcher(Runner(), on_batch=lambda rows, queued, ran: seen.append((rows, len(queued))))
        await batcher.submit(images(1, 2, 3))
        await batcher.close()

    play(main())
    assert seen == [(3, 1)]


def test_trouble_beside_the_run_costs_no_answer() -> None:
    """Counting fails, requests cannot be joined, a run ends with StopIteration or too few rows: later ones go on."""

    def run(images: np.ndarray) -> list[np.ndarray]:
        if images.shape[1] == 2:
            raise StopIteration
        return [images[: 1 if images.shape[1] == 3 else None, 0, 0, 0] * 2]

    def on_batch(rows: int, queued: list[float], ran: float) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        batcher = Batcher(run, on_batch=on_batch, max_delay_ms=20)
        odd = np.zeros((1, 2, 1, 1), np.uint8)
        answers = await asyncio.gather(batcher.submit(images(4)), batcher.submit(odd), return_exceptions=True)
        assert answers[0][0].tolist() == [8] and isinstance(answers[1], RuntimeError)
        with pytest.raises(RuntimeError, match="not one an image"):
            await batcher.submit(np.zeros((2, 3, 1, 1), np.uint8))
        assert (await batcher.submit(images(5)))[0].tolist() == [10]
        await batcher.close()

    play(main())


def test_giving_up_on_closing_loses_nobody() -> None:
    runner = Runner(0.03)

    async def main() -> None:
        batcher = Batcher(runner, max_batch=1)
        tasks = [asyncio.create_task(batcher.submit(images(value))) for value in range(4)]
        await asyncio.sleep(0.005)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.close(), 0.01)
        assert [answer[0].tolist() for answer in await asyncio.gather(*tasks)] == [[0], [2], [4], [6]]
        await batcher.close()

    play(main())
