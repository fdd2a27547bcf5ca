import numpy as np
import pytest

from scoring.figures.rows import ScoredRows
from scoring.figures.sets import measure_sets, thresholds
from tests.scoring.figures.rows import draw


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_sets_hold_the_label_as_often_as_promised(level: float, by_class: bool) -> None:
    """For rows like the calibration's, however wrong the probabilities: between level and level + classes / (n + 1)."""
    calibration, rows = draw(4000, seed=1, sharpness=3.0), draw(8000, seed=2, sharpness=3.0)
    sets = measure_sets(rows, calibration, level, by_class)
    assert level - 0.015 < sets.coverage < level + 0.015
    low, high = sets.coverage_interval
    assert low < sets.coverage < high and not sets.unbounded
    if by_class:
        assert all(abs(coverage - level) < 0.04 for coverage in sets.class_coverage if coverage is not None)


def test_the_threshold_has_the_rank_of_the_definition() -> None:
    """Of nine rows and 0.8, rank ceil(10 * 0.8) = 8: the second smallest probability of the labels."""
    labels = np.zeros(9, np.int64)
    chosen = np.linspace(0.1, 0.9, 9)
    rows = ScoredRows(labels, np.stack([chosen, 1 - chosen], axis=1))
    assert thresholds(rows, 0.8, by_class=False).tolist() == [0.2, 0.2]
    assert thresholds(rows, 0.9, by_class=False).tolist() == [0.1, 0.1]
    assert thresholds(rows, 0.95, by_class=False).tolist() == [0, 0], "nine rows cannot promise 95 %"


def test_a_class_with_too_few_calibration_rows_is_in_every_set() -> None:
    calibration = draw(300, seed=3)
    few = np.flatnonzero((calibration.labels != 2) | (np.cumsum(calibration.labels == 2) <= 4))
    sets = measure_sets(draw(500), ScoredRows(calibration.labels[few], calibration.probabilities[few]), 0.9, True)
    assert sets.unbounded == [2] and sets.class_coverage[2] == 1.0


def test_a_class_without_rows_has_no_coverage() -> None:
    rows = draw(100)
    without = rows.labels != 1
    sets = measure_sets(ScoredRows(rows.labels[without], rows.probabilities[without]), draw(100), 0.9, False)
    assert sets.class_coverage[1] is None and sets.mean_size >= 1
