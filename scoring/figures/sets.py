"""Conformal prediction sets: as many classes as it takes to hold the true one with a given probability.

Flows in: probabilities of validation rows (calibration) and of the rows measured. Flows out: coverage and size of the
sets. The promise holds for rows of the same distribution as the calibration's; a shift of centre breaks it, which the
measured coverage shows.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from scoring.figures.rows import ScoredRows
from xtrain.metrics import wilson_interval


@dataclass(frozen=True)
class PredictionSets:
    """What sets of one method hold on the rows measured.

    Attributes:
        method: `lac` (one threshold) or `class-conditional` (one for each class).
        level: the coverage that was asked for.
        calibration_rows: rows that the thresholds come from.
        coverage: share of rows whose set holds the label, with its 95 % Wilson interval.
        class_coverage: the same of each class; None where it has no row.
        mean_size: classes in a set.
        empty: share of rows whose set is empty.
        unbounded: classes with too few calibration rows for the level, which are in every set.
    """

    method: str
    level: float
    calibration_rows: int
    coverage: float
    coverage_interval: tuple[float, float]
    class_coverage: list[float | None]
    mean_size: float
    empty: float
    unbounded: list[int]


def thresholds(calibration: ScoredRows, level: float, by_class: bool) -> NDArray[np.float64]:
    """Return the smallest probability (classes,) with which a class is in a set; 0 where it always is.

    The score is one minus the label's probability (LAC: Sadinle et al. 2019); its quantile is that of rank
    ceil((n + 1) level) (Vovk et al. 2005), of all rows or of each class's own (class-conditional).
    """
    rows = np.arange(len(calibration))
    chosen = calibration.probabilities[rows, calibration.labels]
    if not by_class:
        return np.full(calibration.classes, _threshold(chosen, level))
    classes = range(calibration.classes)
    return np.array([_threshold(chosen[calibration.labels == index], level) for index in classes])


def measure_sets(rows: ScoredRows, calibration: ScoredRows, level: float, by_class: bool) -> PredictionSets:
    """Return coverage and size of the sets of rows, with thresholds of calibration rows."""
    least = thresholds(calibration, level, by_class)
    sets = rows.probabilities >= least
    covered = sets[np.arange(len(rows)), rows.labels]
    of_class = [covered[rows.labels == index] for index in range(rows.classes)]
    sizes = sets.sum(axis=1)
    return PredictionSets(
        method="class-conditional" if by_class else "lac",
        level=level,
        calibration_rows=len(calibration),
        coverage=float(covered.mean()),
        coverage_interval=wilson_interval(int(covered.sum()), len(rows)),
        class_coverage=[float(part.mean()) if len(part) else None for part in of_class],
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        unbounded=np.flatnonzero(least <= 0).tolist(),
    )


def _threshold(chosen: NDArray[np.float64], level: float) -> float:
    rank = ceil((len(chosen) + 1) * level - 1e-9)  # 0.9 of 9 + 1 is rank 9, whatever the floats say
    return 0.0 if rank > len(chosen) else float(np.sort(chosen)[len(chosen) - rank])
