"""A predictor with its batchers: what the routes ask for answers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from serving.scheduling.batcher import Batcher
from serving.model.card import Card
from serving.http.errors import HTTPError
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    `max_batch` images in a run and `max_queue` waiting for one; `max_delay_ms` that an idle server waits for more;
    `timeout` seconds until a request is given up; `max_bytes` of one image, `max_batch_bytes` of many and
    `max_held_bytes` of all requests under way together; `threads` of a run on the CPU, 0 for one a core.
    """

    max_batch: int = 64
    max_delay_ms: float = 0.0
    max_queue: int = 1024
    timeout: float = 30.0
    max_bytes: int = 16 * 1024 * 1024
    max_batch_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 256 * 1024 * 1024
    threads: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Limits":
        """Each from its variable, such as `XTRAIN_MAX_BATCH`, where there is one.

        Raises:
            ConfigError: not a number, or not above 0 (a delay and threads may be 0).
        """
        given: dict[str, Any] = {}
        for item in fields(cls):
            name = variable(item.name)
            if name not in environment:
                continue
            kind = type(getattr(cls, item.name))
            try:
                given[item.name] = kind(environment[name])
            except ValueError:
                raise ConfigError(f"{name}={environment[name]}: not a number") from None
            if not (
                0 < given[item.name] < float("inf")
                or item.name in ("max_delay_ms", "threads")
                and given[item.name] == 0
            ):
                raise ConfigError(f"{name}={environment[name]}: must be above 0")
        return cls(**given)


def variable(field: str) -> str:
    """The environment variable of one limit."""
    return f"XTRAIN_{field.upper()}"


class Engine:
    """Answers for one loaded model."""

    def __init__(
        self, predictor: Predictor, limits: Limits, on_batch: Callable[[int, list[float], float], None]
    ) -> None:
        self.predictor, self.limits = predictor, limits
        self._holders, self._free = 0, asyncio.Event()

        def batcher(run: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]) -> Batcher:
            return Batcher(
                run,
                max_batch=limits.max_batch,
                max_delay_ms=limits.max_delay_ms,
                max_queue=limits.max_queue,
                on_batch=on_batch,
            )

        self._plain = batcher(lambda images: [predictor.predict(images)])
        self._explaining = batcher(lambda images: list(predictor.explain(images)))

    @property
    def card(self) -> Card:
        """Of the model."""
        return self.predictor.card

    @property
    def waiting(self) -> int:
        """Images in the queues."""
        return self._plain.waiting + self._explaining.waiting

    async def predict(self, images: NDArray[np.uint8]) -> Probabilities:
        """Probabilities (N, classes) of images (N, H, W, C), in parts of at most a run, so that others get theirs.

        Raises:
            QueueFull, DeadlinePassed, Stopping: as the batcher.
        """
        (probabilities,) = await self._in_parts(self._plain, images)
        return probabilities

    async def explain(self, images: NDArray[np.uint8]) -> tuple[Probabilities, NDArray[np.float32]]:
        """Probabilities, and heatmaps (N, H, W); the model must have them."""
        probabilities, heatmaps = await self._in_parts(self._explaining, images)
        return probabilities, heatmaps

    async def _in_parts(self, batcher: Batcher, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """All of one request's answers; the timeout is that of the whole."""
        end = time.monotonic() + self.limits.timeout
        parts = []
        for start in range(0, len(images), self.limits.max_batch):
            part = images[start : start + self.limits.max_batch]
            parts.append(await batcher.submit(part, max(0.0, end - time.monotonic())))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def hold(self) -> None:
        """A request has begun that will ask this engine; each ends with `release`."""
        self._holders += 1

    def release(self) -> None:
        """That request is over."""
        self._holders -= 1
        if not self._holders:
            self._free.set()

    async def retire(self) -> None:
        """Close once the last request that holds this engine is over: after a swap nobody finds it closed."""
        while self._holders:
            self._free.clear()
            await self._free.wait()
        await self.close()

    async def close(self) -> None:
        """Answer what waits, refuse the rest."""
        await asyncio.gather(self._plain.close(), self._explaining.close())


def held(request: Request) -> Engine:
    """The engine that answers this request from its beginning to its end, whatever is swapped meanwhile.

    Raises:
        HTTPError: 503, no model is loaded yet.
    """
    engine: Engine | None = request.scope.get("engine") or request.app.state.engine
    if engine is None:
        raise HTTPError(503, "the model is still loading; try again when /readyz answers 200")
    if "engine" not in request.scope:
        engine.hold()
        request.scope["engine"] = engine  # released by the middleware of `access`
    return engine
