"""What a model has run and answered: for the protocol's statistics, and for metrics that show a drift of the data."""

import time

import numpy as np
from numpy.typing import NDArray

BINS = 20  # of confidence


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
