"""Labels and probabilities of scored rows, sorted and binned once, so that a resample is measured without sorting.

Flows in: what a model said of labelled rows. Flows out: `ScoredRows`, which `totals.measure` reads with a weight a row.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xtrain.data.datasets import Labels

BINS = 15  # of the calibration errors, of equal width, as in Guo et al. 2017

Weights = NDArray[np.float64]  # (N,): how often each row counts; all 1 for the rows as they are


@dataclass(frozen=True)
class Ranking:
    """An order of the rows, and where each group of equal scores begins in it."""

    order: NDArray[np.int64]  # (N,)
    starts: NDArray[np.int64]  # (groups,)

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> "Ranking":
        """Return the order of ascending scores (N,)."""
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        return cls(order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])))

    def sums(self, values: Weights) -> Weights:
        """Return the sum of the values (N,) over each group (groups,), in order."""
        ordered = values[self.order]
        return ordered if len(self.starts) == len(ordered) else np.add.reduceat(ordered, self.starts)


@dataclass(frozen=True)
class ScoredRows:
    """Labelled rows that a model scored.

    Attributes:
        labels: (N,) integers in [0, classes), N at least 1.
        probabilities: (N, classes) float64 whose rows sum to 1.
    """

    labels: Labels
    probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.probabilities.shape[1])

    @cached_property
    def predicted(self) -> Labels:
        """The most probable class of each row (N,)."""
        predicted: Labels = self.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each row is classified rightly (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    @cached_property
    def confidence(self) -> Weights:
        """The probability of the most probable class (N,)."""
        highest: Weights = self.probabilities.max(axis=1)
        return highest

    @cached_property
    def truth(self) -> Weights:
        """The labels as indicators (N, classes)."""
        return np.eye(self.classes)[self.labels]

    @cached_property
    def log_loss(self) -> Weights:
        """The negative log-likelihood of each row's class (N,), in nats."""
        chosen = self.probabilities[np.arange(len(self)), self.labels]
        losses: Weights = -np.log(np.clip(chosen, 1e-12, 1.0))
        return losses

    @cached_property
    def brier(self) -> Weights:
        """The squared distance of probabilities and indicators of each row (N,), 0 to 2 (Brier 1950)."""
        distances: Weights = ((self.probabilities - self.truth) ** 2).sum(axis=1)
        return distances

    @cached_property
    def confidence_bin(self) -> NDArray[np.int64]:
        """The bin of each row's confidence (N,)."""
        return bin_of(self.confidence)

    @cached_property
    def class_bin(self) -> NDArray[np.int64]:
        """The bin of each probability, numbered through all classes (N * classes,)."""
        bins: NDArray[np.int64] = (bin_of(self.probabilities) + BINS * np.arange(self.classes)).ravel()
        return bins

    @cached_property
    def by_confidence(self) -> Ranking:
        """The rows from the most to the least confident."""
        return Ranking.of(-self.confidence)

    @cached_property
    def by_class(self) -> tuple[Ranking, ...]:
        """The rows by ascending probability of each class."""
        return tuple(Ranking.of(self.probabilities[:, index]) for index in range(self.classes))


def bin_of(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each probability; bins are (low, high], as in Guo et al. 2017."""
    return np.clip(np.ceil(probabilities * BINS).astype(np.int64) - 1, 0, BINS - 1)
