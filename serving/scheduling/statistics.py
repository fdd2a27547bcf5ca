"""What a model has run and answered: for the protocol's statistics, and for metrics that show a drift of the data."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20  # of confidence
SUMS = ("runs", "images", "requests", "failures", "queued_seconds", "run_seconds", "confidence_sum")


class Statistics:
    """What an engine has run since it was made.

    Attributes:
        runs: number of runs of the model.
        images: of all runs.
        requests: whose images were in them.
        failures: requests whose run failed.
        queued_seconds: that all requests waited together.
        run_seconds: of all runs.
        last_run: when the last one ended, in seconds since 1970.
        by_size: runs and their seconds by number of images.
        classes: (C,) int64, images by their most probable class.
        confidences: (`BINS`,) int64, images by the probability of that class, in bins of equal width.
        confidence_sum: of all images.
    """

    def __init__(self, classes: int) -> None:
        """Start with nothing, for a model of so many classes."""
        self.runs, self.images, self.requests, self.failures = 0, 0, 0, 0
        self.queued_seconds, self.run_seconds, self.last_run = 0.0, 0.0, 0.0
        self.by_size: dict[int, tuple[int, float]] = {}
        self.classes, self.confidences = np.zeros(classes, np.int64), np.zeros(BINS, np.int64)
        self.confidence_sum = 0.0

    def count(self, images: int, queued: list[float], seconds: float) -> None:
        """Count one run, as `OnBatch`."""
        self.runs, self.images, self.requests = self.runs + 1, self.images + images, self.requests + len(queued)
        self.queued_seconds, self.run_seconds = self.queued_seconds + sum(queued), self.run_seconds + seconds
        self.last_run = time.time()
        runs, total = self.by_size.get(images, (0, 0.0))
        self.by_size[images] = runs + 1, total + seconds

    def count_predictions(self, probabilities: NDArray[np.float32]) -> None:
        """Count the classes of probabilities (N, C); on the thread of the runs."""
        self.classes += np.bincount(probabilities.argmax(axis=1), minlength=len(self.classes))
        confidences = probabilities.max(axis=1)
        bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
        self.confidences += np.bincount(bins, minlength=BINS)
        self.confidence_sum += float(confidences.sum())

    def as_json(self) -> dict[str, Any]:
        """Return the attributes, as one process tells them to another."""
        arrays = {"classes": self.classes.tolist(), "confidences": self.confidences.tolist()}
        return {**vars(self), **arrays, "by_size": [[size, *ran] for size, ran in self.by_size.items()]}

    @classmethod
    def total(cls, parts: "Iterable[dict[str, Any]]", classes: int) -> "Statistics":
        """Return the sum of what several processes counted of a model of so many classes, each as by `as_json`."""
        whole = cls(classes)
        for part in parts:
            for name in SUMS:
                setattr(whole, name, getattr(whole, name) + part[name])
            whole.last_run = max(whole.last_run, part["last_run"])
            whole.classes += np.array(part["classes"], np.int64)
            whole.confidences += np.array(part["confidences"], np.int64)
            for size, runs, seconds in part["by_size"]:
                before = whole.by_size.get(size, (0, 0.0))
                whole.by_size[size] = before[0] + runs, before[1] + seconds
        return whole
