import math

import numpy as np
import pytest
from sklearn import metrics as reference

from xtrain.metrics import calibration_bins, evaluate, format_metrics, wilson_interval


@pytest.mark.parametrize("classes", [2, 9])
@pytest.mark.parametrize("absent", [False, True])
def test_figures_are_scikit_learns(classes: int, absent: bool) -> None:
    random = np.random.RandomState(classes)
    labels = random.randint(0, classes - absent, 300)
    # Coarse probabilities, so that there are ties to rank.
    probabilities = np.round(random.dirichlet(np.ones(classes), 300) + np.eye(classes)[labels] * 0.3, 2)
    probabilities = (probabilities + 0.01) / (probabilities + 0.01).sum(1, keepdims=True)
    got = evaluate(labels, probabilities)
    predicted = probabilities.argmax(1)
    assert got.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert (got.precision, got.recall, got.f1) == pytest.approx((precision, recall, f1))
    areas = [
        reference.roc_auc_score(labels == index, probabilities[:, index])
        for index in range(classes)
        if 0 < (labels == index).sum() < 300
    ]
    assert got.auc == pytest.approx(np.mean(areas) if areas else None)
    assert got.loss == pytest.approx(reference.log_loss(labels, probabilities, labels=range(classes)))
    expected = reference.confusion_matrix(labels, predicted, labels=range(classes))
    assert (np.array(got.confusion) == expected).all()


def test_one_class_has_no_auc() -> None:
    got = evaluate(np.zeros(4, int), np.tile([0.9, 0.1], (4, 1)))
    assert got.auc is None and got.accuracy == 1.0


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    """Against published values (Newcombe 1998)."""
    got = wilson_interval(successes, trials)
    assert all(math.isclose(a, b, abs_tol=5e-5) for a, b in zip(got, (low, high), strict=True))


def test_text_names_every_class() -> None:
    text = format_metrics(evaluate(np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]] * 0.8 + 0.1), ["adipose", "mucus"])
    assert "accuracy  0.6667" in text and "0 adipose  recall 1.0000  precision 0.5000  of 1" in text


def test_calibration_error_by_hand() -> None:
    """Two rows at 0.9 of which one is right, two at 0.6 both right: (2 * 0.4 + 2 * 0.4) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 1])
    assert evaluate(labels, probabilities).ece == pytest.approx(0.4)
    low, high = calibration_bins(labels, probabilities)
    assert (low.rows, low.accuracy, low.confidence) == (2, 1.0, pytest.approx(0.6))
    assert (high.rows, high.accuracy) == (2, 0.5) and high.low < 0.9 <= high.high


def test_certain_rows_fall_into_the_last_bin() -> None:
    (only,) = calibration_bins(np.array([0, 1]), np.eye(2))
    assert (only.high, only.accuracy) == (1.0, 1.0)
    assert evaluate(np.array([0, 1]), np.eye(2)).ece == 0


def test_a_calibrated_classifier_has_a_small_error() -> None:
    random = np.random.RandomState(0)
    probabilities = random.dirichlet(np.ones(4), 50_000)
    labels = (probabilities.cumsum(axis=1) < random.rand(50_000, 1)).sum(axis=1)
    got = evaluate(labels, probabilities).ece
    assert got is not None and got < 0.01
