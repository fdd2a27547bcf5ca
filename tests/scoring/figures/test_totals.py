"""Every figure against the library that defines it, or against its definition written out."""

from pathlib import Path

import medmnist
import numpy as np
import pytest
import sklearn.metrics as sklearn

from scoring.figures.rows import ScoredRows
from scoring.figures.totals import OF_A_CLASS, TOTALS, measure, risk_coverage
from tests.scoring.figures.rows import draw
from xtrain import metrics


def totals(rows: ScoredRows, weights: np.ndarray | None = None) -> dict[str, float]:
    return dict(zip(TOTALS, measure(rows, weights).totals.tolist(), strict=True))


def with_ties(rows: ScoredRows) -> ScoredRows:
    """The same rows with probabilities in steps of a tenth, so that many are equal."""
    coarse = np.round(rows.probabilities, 1) + 1e-3
    return ScoredRows(rows.labels, coarse / coarse.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("rows", [draw(400), with_ties(draw(400, seed=1)), draw(300, classes=2), draw(200, classes=11)])
def test_figures_are_those_of_scikit_learn(rows: ScoredRows) -> None:
    ours, labels, predicted, p = totals(rows), rows.labels, rows.predicted, rows.probabilities
    theirs = {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "precision": sklearn.precision_score(labels, predicted, average="macro", zero_division=0),
        "recall": sklearn.recall_score(labels, predicted, average="macro", zero_division=0),
        "f1": sklearn.f1_score(labels, predicted, average="macro", zero_division=0),
        "mcc": sklearn.matthews_corrcoef(labels, predicted),
        "kappa": sklearn.cohen_kappa_score(labels, predicted),
        "quadratic_kappa": sklearn.cohen_kappa_score(labels, predicted, weights="quadratic"),
        "loss": sklearn.log_loss(labels, p),
        "brier": sklearn.brier_score_loss(labels, p, labels=np.arange(rows.classes), scale_by_half=False),
        "auc": np.mean([sklearn.roc_auc_score(labels == index, p[:, index]) for index in range(rows.classes)]),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    by_class = measure(rows).classes
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for name, values in {"precision": precision, "recall": recall, "f1": f1}.items():
        assert by_class[:, OF_A_CLASS.index(name)] == pytest.approx(values)


def test_figures_that_training_reports_too_are_the_same() -> None:
    rows = draw(500)
    ours, training = totals(rows), metrics.evaluate(rows.labels, rows.probabilities)
    for name in ("accuracy", "precision", "recall", "f1", "auc", "loss", "ece"):
        assert ours[name] == pytest.approx(getattr(training, name), abs=1e-12), name


@pytest.mark.parametrize("flag", ["pathmnist", "breastmnist"])
def test_auc_and_accuracy_are_those_of_medmnists_evaluator(tmp_path: Path, flag: str) -> None:
    classes = 9 if flag == "pathmnist" else 2
    rows = draw(250, classes)
    np.savez(tmp_path / f"{flag}.npz", test_labels=rows.labels[:, None].astype(np.uint8))
    auc, accuracy = medmnist.Evaluator(flag, "test", root=str(tmp_path)).evaluate(rows.probabilities)[:2]
    ours = totals(rows)
    assert (ours["auc"], ours["accuracy"]) == (pytest.approx(auc, abs=1e-12), pytest.approx(accuracy))


def test_calibration_errors_are_their_definitions() -> None:
    rows = draw(700, sharpness=2.0)
    edges = np.linspace(0, 1, 16)

    def error(confidence: np.ndarray, right: np.ndarray) -> float:
        bins = [(confidence > low) & (confidence <= high) for low, high in zip(edges, edges[1:], strict=False)]
        return sum(b.mean() * abs(right[b].mean() - confidence[b].mean()) for b in bins if b.any())

    ours = totals(rows)
    assert ours["ece"] == pytest.approx(error(rows.confidence, rows.right)) and ours["ece"] > 0.05
    each = [error(rows.probabilities[:, index], rows.labels == index) for index in range(rows.classes)]
    assert ours["classwise_ece"] == pytest.approx(np.mean(each))


def test_augrc_is_the_area_under_the_generalized_risk() -> None:
    rows = draw(300)
    order = np.argsort(-rows.confidence)
    accepted_and_wrong = np.concatenate([[0], np.cumsum(~rows.right[order])]) / len(rows)
    assert totals(rows)["augrc"] == pytest.approx(np.trapezoid(accepted_and_wrong, dx=1 / len(rows)))
    # Equal confidences say nothing of which is wrong: the curve is the straight line to the error rate.
    flat = ScoredRows(np.array([0, 1, 1, 0]), np.full((4, 2), 0.5))
    assert totals(flat)["augrc"] == pytest.approx(0.5 / 2)


def test_the_risk_coverage_curve_ends_at_the_error_rate() -> None:
    rows = draw(500)
    curve = risk_coverage(rows, points=50)
    assert len(curve) == 50 and curve[-1] == (1.0, pytest.approx((~rows.right).mean()))
    assert curve[10][1] < curve[-1][1], "the most confident rows are right more often"


@pytest.mark.parametrize("rows", [draw(200), with_ties(draw(200))])
def test_a_weight_is_so_many_copies_of_the_row(rows: ScoredRows) -> None:
    """What the bootstrap rests on: no figure is another one for being computed from weights."""
    weights = np.random.default_rng(3).integers(0, 4, len(rows))
    copies = np.repeat(np.arange(len(rows)), weights)
    repeated = measure(ScoredRows(rows.labels[copies], rows.probabilities[copies]))
    weighted = measure(rows, weights.astype(np.float64))
    assert weighted.totals == pytest.approx(repeated.totals, abs=1e-12)
    assert weighted.classes == pytest.approx(repeated.classes, abs=1e-12, nan_ok=True)


def test_rows_of_one_class_leave_figures_undefined_without_a_warning() -> None:
    one = totals(ScoredRows(np.zeros(3, np.int64), np.tile([0.9, 0.1], (3, 1))))
    assert one["accuracy"] == 1 and np.isnan(one["auc"]) and np.isnan(one["kappa"]) and one["mcc"] == 0
