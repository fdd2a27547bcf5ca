"""A loaded model with its batchers: what the routes ask for predictions."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.model.card import Card
from serving.model.predictor import Predictor
from serving.model.repository import Entry
from serving.scheduling.batcher import Batcher, DeadlinePassed, QueueFull, Run, Stopping
from serving.scheduling.statistics import Statistics
from serving.settings import Settings
from serving.tracing import TRACING

Probabilities = NDArray[np.float32]
OnBatch = Callable[[int, list[float], float], None]


class Engine:
    """Runs requests on one loaded model, batched; counts those that use it, so that it can be closed after the last."""

    def __init__(self, predictor: Predictor, settings: Settings, on_batch: OnBatch, entry: Entry | None = None) -> None:
        """Make an idle engine.

        Args:
            predictor: the loaded model.
            settings: sizes of batch and queue.
            on_batch: told of every run, as by `Batcher`.
            entry: of the model repository, whose name and version it is served under; by default the card's.
        """
        self.predictor, self.max_batch = predictor, settings.max_batch
        self.entry = entry or Entry(predictor.card.name, predictor.card.version, predictor.path)
        self.statistics = Statistics(len(predictor.card.classes))

        def counted(images: int, queued: list[float], seconds: float) -> None:
            self.statistics.count(images, queued, seconds)
            on_batch(images, queued, seconds)

        self._users, self._unused = 0, asyncio.Event()

        def predict(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            probabilities = predictor.predict(images)
            self.statistics.count_predictions(probabilities)
            return [probabilities]

        def explain(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            probabilities, heatmaps = predictor.predict_and_explain(images)
            self.statistics.count_predictions(probabilities)
            return [probabilities, heatmaps]

        self._explain = explain
        # Plain and explaining requests share one queue and one thread, since they share one session.
        self._batcher = Batcher(
            predict,
            max_batch=settings.max_batch,
            max_delay_ms=settings.max_delay_ms,
            max_queue=settings.max_queue,
            on_batch=counted,
        )

    def warm_up(self) -> None:
        """Run the model in every size, on the thread that will run it: a GPU's plans belong to their thread.

        Raises:
            ModelFileError: as `Predictor.warm_up`.
        """
        self._batcher.on_thread(self.predictor.warm_up)

    def end_thread(self) -> None:
        """End the thread of an engine that never answered."""
        self._batcher.end_thread()

    @property
    def card(self) -> Card:
        """Of the model."""
        return self.predictor.card

    @property
    def name(self) -> str:
        """Name that requests call the model by."""
        return self.entry.name

    @property
    def version(self) -> str:
        """Version of the model."""
        return self.entry.version

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._batcher.waiting

    async def predict(self, images: NDArray[np.uint8], deadline: float) -> Probabilities:
        """Return the probabilities (N, classes) of images (N, H, W, C).

        They are run in parts of at most a batch, so that other requests get their turn.

        Args:
            images: uint8 at the native size.
            deadline: of `time.monotonic`, after which no answer is of use.

        Raises:
            QueueFull, DeadlinePassed, Stopping: as by the batcher.
        """
        (probabilities,) = await self._run_in_parts(images, deadline)
        return probabilities

    async def predict_and_explain(
        self, images: NDArray[np.uint8], deadline: float
    ) -> tuple[Probabilities, NDArray[np.float32]]:
        """Return the probabilities, and heatmaps (N, H, W); the model must have them. Otherwise as `predict`."""
        probabilities, heatmaps = await self._run_in_parts(images, deadline, self._explain)
        return probabilities, heatmaps

    async def _run_in_parts(
        self, images: NDArray[np.uint8], deadline: float, run: Run | None = None
    ) -> list[NDArray[np.float32]]:
        parts = []
        for start in range(0, len(images), self.max_batch):
            part = images[start : start + self.max_batch]
            try:
                with TRACING.child_span("predict"):  # waiting included
                    parts.append(await self._batcher.submit(part, max(0.0, deadline - time.monotonic()), run))
            except Exception as error:
                self.statistics.failures += not isinstance(error, QueueFull | DeadlinePassed | Stopping)
                raise
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def acquire(self) -> None:
        """Count a request that uses this engine until `release`."""
        self._users += 1

    def release(self) -> None:
        """Count that request no longer."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def retire(self) -> None:
        """Close once the last request that uses this engine is over: after a swap nobody finds it closed."""
        while self._users:
            self._unused.clear()
            await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        """Answer what waits, refuse the rest."""
        await self._batcher.close()
