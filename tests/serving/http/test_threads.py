"""A cancelled request waits for its thread: leaving clients cannot have more at work than the pool has."""

import asyncio
import threading

import pytest

from serving.http.threads import run_in_thread


def test_the_result_and_the_error_are_the_calls() -> None:
    def fail() -> None:
        raise ValueError("mine")

    async def both() -> int:
        with pytest.raises(ValueError, match="mine"):
            await run_in_thread(fail)
        return await run_in_thread(lambda: 7)

    assert asyncio.run(both()) == 7


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancellation_waits_for_the_thread(fails: bool) -> None:
    ended = threading.Event()
    going = threading.Event()

    def work() -> None:
        going.set()
        threading.Event().wait(0.3)
        ended.set()
        if fails:
            raise ValueError("nobody is told")

    async def leave() -> None:
        task = asyncio.ensure_future(run_in_thread(work))
        while not going.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(leave())
