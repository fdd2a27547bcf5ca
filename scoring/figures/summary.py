"""All figures of scored rows with their intervals, as `xeval` shows and stores them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.figures.bootstrap import SEED, Interval, defined, interval, resamples
from scoring.figures.rows import ScoredRows
from scoring.figures.totals import OF_A_CLASS, TOTALS, measure
from xtrain.metrics import wilson_interval


@dataclass(frozen=True)
class Value:
    """A figure, None where it is not defined, and its 95 % interval, None where there is none.

    The interval is a bootstrap's; of a class's recall and precision it is Wilson's.
    """

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Summary:
    """Figures of all rows by name, and of each class by name; `resamples` made the intervals, 0 for none."""

    totals: dict[str, Value]
    classes: list[dict[str, Value]]
    resamples: int


def summarise(rows: ScoredRows, count: int, seed: int = SEED) -> Summary:
    """Return every figure of the rows with the interval of `count` resamples within classes, 0 for none."""
    whole = measure(rows)
    parts = [measure(rows, weights) for weights in resamples(rows.labels, count, seed)]
    totals = np.array([part.totals for part in parts]).reshape(count, *whole.totals.shape)
    classes = np.array([part.classes for part in parts]).reshape(count, *whole.classes.shape)

    def valued(name: str, value: float, replicates: NDArray[np.float64]) -> Value:
        limits = TOTALS[name].low, TOTALS[name].high
        return Value(defined(value), interval(value, replicates, *limits) if count else None)

    hits = rows.right.astype(np.int64)
    right = np.bincount(rows.labels, hits, rows.classes).astype(np.int64)
    of_class = {"recall": np.bincount(rows.labels, minlength=rows.classes)}
    of_class["precision"] = np.bincount(rows.predicted, minlength=rows.classes)

    def valued_class(name: str, index: int, at: int) -> Value:
        if name in of_class:  # shares: 0 of 26 rows is 0 in every resample too, which says nothing of the next row
            trials = int(of_class[name][index])
            return Value(
                defined(whole.classes[index, at]), wilson_interval(int(right[index]), trials) if trials else None
            )
        return valued(name, whole.classes[index, at], classes[:, index, at])

    return Summary(
        totals={name: valued(name, whole.totals[at], totals[:, at]) for at, name in enumerate(TOTALS)},
        classes=[
            {name: valued_class(name, index, at) for at, name in enumerate(OF_A_CLASS)} for index in range(rows.classes)
        ],
        resamples=count,
    )
