"""Two classifiers on the same rows: are they different, and by how much; over several seeds where several were trained.

Flows in: the rows as each model scored them, in one order. Flows out: McNemar's test, and the difference of every
figure with an interval of the paired bootstrap: both models are measured on the same resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.figures.bootstrap import SEED, Interval, defined, interval, resamples
from scoring.figures.rows import ScoredRows
from scoring.figures.totals import TOTALS, measure


@dataclass(frozen=True)
class Difference:
    """One figure of both models and their difference, the first minus the second; None where it is not defined."""

    first: float | None
    second: float | None
    difference: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What the first model has over the second on the same rows.

    Attributes:
        first: name of the first model; of several, joined by commas.
        second: of the second.
        rows: number of rows.
        seeds: number of pairs of models; the figures are then means over them.
        only_first_right: rows that only the first model classifies rightly, a pair of models each.
        only_second_right: that only the second does.
        p_values: McNemar's exact test of each pair.
        figures: by name.
    """

    first: str
    second: str
    rows: int
    seeds: int
    only_first_right: list[int]
    only_second_right: list[int]
    p_values: list[float]
    figures: dict[str, Difference]


def compare(
    first: Sequence[ScoredRows], second: Sequence[ScoredRows], names: tuple[str, str], count: int, seed: int = SEED
) -> Comparison:
    """Return the comparison of models by pairs: first[i] and second[i] differ in nothing else, such as the seed.

    Over several pairs, a resample draws the pairs as well as the rows, so that the interval holds what another training
    would change too. With a handful of seeds it is a rough one, too narrow rather than too wide.

    Args:
        first: the rows as each first model scored them.
        second: the same rows in the same order as each second model scored them, as many.
        names: of both.
        count: number of resamples; 0 for no intervals.
        seed: of the resamples.
    """
    pairs = list(zip(first, second, strict=True))
    both = np.array([[measure(a).totals, measure(b).totals] for a, b in pairs]).mean(axis=0)
    difference = both[0] - both[1]
    replicates = np.empty((count, len(TOTALS)))
    draws = np.random.default_rng(seed + 1)
    for index, weights in enumerate(resamples(first[0].labels, count, seed)):
        chosen = draws.integers(len(pairs), size=len(pairs))
        differences = {
            at: measure(pairs[at][0], weights).totals - measure(pairs[at][1], weights).totals for at in chosen
        }
        replicates[index] = np.mean([differences[at] for at in chosen], axis=0)
    figures = {
        name: Difference(
            defined(both[0, at]),
            defined(both[1, at]),
            defined(difference[at]),
            interval(difference[at], replicates[:, at]) if count else None,
        )
        for at, name in enumerate(TOTALS)
    }
    discordant = [(int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())) for a, b in pairs]
    return Comparison(
        first=names[0],
        second=names[1],
        rows=len(first[0]),
        seeds=len(pairs),
        only_first_right=[a for a, _ in discordant],
        only_second_right=[b for _, b in discordant],
        p_values=[mcnemar(a, b) for a, b in discordant],
        figures=figures,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947; binomial, as Fagerland et al. 2013 say).

    Args:
        only_first: rows that only the first model classifies rightly.
        only_second: rows that only the second does.
    """
    trials, fewer = only_first + only_second, min(only_first, only_second)
    steps: NDArray[np.float64] = np.arange(1, fewer + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(trials - steps + 1) - np.log(steps))]) - trials * np.log(2)
    return float(min(1.0, 2 * np.exp(logs).sum()))
