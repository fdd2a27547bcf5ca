"""What a request holds ends with it: the engine, the memory, and the rest of a form when one part fails."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.http import context
from serving.http.app import create_app, load_model
from serving.http.context import RequestContext
from serving.http.predict import _all
from serving.model.predictor import Predictor
from serving.scheduling.memory import MemoryBudget
from serving.settings import Settings
from tests.serving.http.test_app import NPY, npy


def test_an_idle_connection_keeps_no_swapped_out_model(sample_model: Path) -> None:
    """uvicorn keeps the scope of a connection's last request; here the test does."""
    scopes: list[dict[str, Any]] = []
    app = create_app()

    async def keeping(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    async def main() -> None:
        load_model(app, Predictor(sample_model, "cpu"))
        before = weakref.ref(app.state.models.find())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(keeping), base_url="http://x") as client:
            content = npy(np.zeros((1, 28, 28, 3), np.uint8))
            assert (await client.post("/v1/predict", content=content, headers=NPY)).status_code == 200
        old = app.state.models.find()
        load_model(app, Predictor(sample_model, "cpu"))
        await old.retire()
        del old
        gc.collect()
        assert len(scopes) == 1 and before() is None
        assert app.state.budget.reserved == 0
        await app.state.models.find().close()

    asyncio.run(main())


def test_a_request_without_a_model_is_told_so() -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(create_app(Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for path in ("/v1/model", "/v2/health/ready"):
                assert (await client.get(path)).status_code == 503
            assert (await client.head("/metrics")).status_code == 200

    asyncio.run(main())


def test_a_failing_part_ends_the_others() -> None:
    ended: list[str] = []

    async def wait() -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return {}

    async def fail() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        raise ValueError("one")

    async def main() -> None:
        with pytest.raises(ValueError, match="one"):
            await _all([wait(), fail(), wait()])

    asyncio.run(asyncio.wait_for(main(), 5))
    assert ended == ["cancelled"] * 2


def test_a_body_earns_time_as_it_comes_and_silence_earns_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of any size: 10 Mbit/s for a minute stay within two seconds' timeout, 64 KiB/s do not."""
    now = 1000.0
    monkeypatch.setattr(context.time, "monotonic", lambda: now)
    for piece, rate, is_in_time in ((1460, 1.25e6, True), (65536, 1.25e6, True), (1460, 65536, False)):
        current = RequestContext("x", MemoryBudget(1).reservation(), 2.0)
        seconds = 0.0
        while seconds < 60 and now <= current.deadline:
            now += piece / rate
            seconds += piece / rate
            current.extend(piece)
            assert current.deadline <= now + 2.0
        assert (seconds >= 60) == is_in_time
    current = RequestContext("x", MemoryBudget(1).reservation(), 2.0)
    current.extend(50_000_000)
    assert current.deadline <= now + 2.0, "a body that came at once may not be silent for minutes"
