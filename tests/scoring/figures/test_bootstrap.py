import numpy as np
import pytest

from scoring.figures.bootstrap import interval, resamples
from scoring.figures.rows import ScoredRows
from scoring.figures.summary import summarise
from scoring.figures.totals import TOTALS, measure
from tests.scoring.figures.rows import draw


def test_resamples_keep_the_classes_and_follow_from_the_seed() -> None:
    labels = np.array([0] * 5 + [1] * 20 + [3] * 7)
    first = list(resamples(labels, 10, seed=1))
    for weights in first:
        assert [weights[labels == index].sum() for index in (0, 1, 3)] == [5, 20, 7]
    assert all((a == b).all() for a, b in zip(first, resamples(labels, 10, seed=1), strict=True))
    assert any((a != b).any() for a, b in zip(first, resamples(labels, 10, seed=2), strict=True))


def test_intervals_hold_the_true_figure_about_as_often_as_they_say() -> None:
    """100 samples of 200 rows: 95 % intervals of unbiased figures hold that of 50,000 rows in 88 to 100 of them."""
    true = dict(zip(TOTALS, measure(draw(50_000, seed=99)).totals, strict=True))
    held = dict.fromkeys(("accuracy", "auc", "loss", "brier", "mcc", "augrc"), 0)
    for seed in range(100):
        summary = summarise(draw(200, seed=seed), 200, seed)
        for name in held:
            low, high = summary.totals[name].interval or (1, 0)
            held[name] += low <= true[name] <= high
    assert all(88 <= count <= 100 for count in held.values()), held


def test_every_interval_holds_its_figure_and_stays_in_range() -> None:
    summary = summarise(draw(120, classes=9), 200)
    for name, value in summary.totals.items():
        assert value.value is not None and value.interval is not None
        low, high = value.interval
        assert TOTALS[name].low <= low <= value.value <= high <= TOTALS[name].high, name


def test_a_class_never_recognised_has_an_interval_of_its_rows() -> None:
    """A resample of 0 hits is 0 hits, so a bootstrap would say 0 to 0 of a class with three rows."""
    rows = draw(60)
    rows.probabilities[:, 0] = 0
    low, high = summarise(rows, 50).classes[0]["recall"].interval or (1.0, 1.0)
    assert low == pytest.approx(0, abs=1e-9) and 0.05 < high < 1


def test_without_resamples_or_definition_there_is_no_interval() -> None:
    assert all(value.interval is None for value in summarise(draw(30), 0).totals.values())
    assert interval(float("nan"), np.ones(10)) is None
    assert interval(0.5, np.array([np.nan] * 8 + [0.4, 0.6])) is None
    one = ScoredRows(np.array([1]), np.array([[0.2, 0.8]]))
    assert summarise(one, 50).totals["balanced_accuracy"].interval is None, "one row cannot say how far it is to trust"
