"""Bootstrap intervals: how far a figure would move if other rows of the same classes had been collected.

Flows in: figures of the rows, and of resamples of them. Flows out: an interval for each. Resamples are drawn within
each class (stratified) from a seed, so that the same file gives the same interval.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scoring.figures.rows import Weights
from xtrain.data.datasets import Labels

SEED = 22
CONFIDENCE = 0.95

Interval = tuple[float, float]


def resamples(labels: Labels, count: int, seed: int = SEED) -> Iterator[Weights]:
    """Yield how often each row (N,) is drawn, `count` times, with as many rows of each class as there are."""
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == index) for index in np.unique(labels)]
    for _ in range(count):
        weights = np.empty(len(labels))
        for rows in members:
            weights[rows] = np.bincount(random.integers(len(rows), size=len(rows)), minlength=len(rows))
        yield weights


def defined(value: float) -> float | None:
    """Return a figure as a plain number; None for NaN."""
    return None if np.isnan(value) else float(value)


def interval(
    value: float, replicates: NDArray[np.float64], low: float = -np.inf, high: float = np.inf
) -> Interval | None:
    """Return the 95 % interval of a figure: percentiles of its replicates, moved so that their median is the figure.

    Without moving they are the plain percentile interval (Efron 1979), and for accuracy, AUC or log loss the two agree.
    A calibration error, though, is larger in nearly every resample than in the rows, since drawing rows twice adds
    noise to each bin: plain percentiles would leave the figure out, and corrections by rank (Efron 1981) collapse.

    Args:
        value: the figure of the rows themselves.
        replicates: (B,) of the resamples; NaN where a resample does not define it.
        low: the smallest value that the figure can have.
        high: the largest.

    Returns:
        None where the figure or more than half of the replicates are not defined, where there are none, and where all
        are equal: that says that the rows are too few or too easy for a bootstrap, not that the figure is certain.
    """
    present = replicates[~np.isnan(replicates)]
    if np.isnan(value) or 2 * len(present) <= len(replicates):
        return None
    if present.min() == present.max():
        return None
    tail = (1 - CONFIDENCE) / 2
    lower, middle, upper = np.quantile(present, [tail, 0.5, 1 - tail])
    return max(low, float(value + lower - middle)), min(high, float(value + upper - middle))
