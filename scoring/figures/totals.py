"""Every figure of `xeval`, defined once for rows that count with a weight: the rows as they are, or a resample.

Flows in: `ScoredRows` and a weight a row. Flows out: the totals and the figures of each class. Definitions are
scikit-learn's where it has the figure; the tests hold them against it, torchmetrics' and MedMNIST's evaluator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.figures.rows import BINS, ScoredRows, Weights


@dataclass(frozen=True)
class Figure:
    """What is known of a figure beside its value.

    Attributes:
        title: for a person.
        source: its definition.
        is_error: whether less of it is better.
        low: its smallest possible value.
        high: its largest.
    """

    title: str
    source: str
    is_error: bool = False
    low: float = 0.0
    high: float = 1.0


TOTALS: dict[str, Figure] = {
    "accuracy": Figure("accuracy", "share of rows whose most probable class is the label"),
    "balanced_accuracy": Figure("balanced accuracy", "mean recall over the classes that occur"),
    "precision": Figure("precision, macro", "mean over classes that occur or are predicted; no prediction is 0"),
    "recall": Figure("recall, macro", "mean over classes that occur or are predicted; no row is 0"),
    "f1": Figure("F1, macro", "mean over classes of the harmonic mean of precision and recall"),
    "mcc": Figure("MCC", "Matthews correlation coefficient for several classes (Gorodkin 2004)", low=-1.0),
    "kappa": Figure("Cohen's kappa", "agreement beyond chance (Cohen 1960)", low=-1.0),
    "quadratic_kappa": Figure("quadratic kappa", "kappa by squared distance of ordered classes (Cohen 1968)", low=-1.0),
    "auc": Figure("AUC, macro", "mean over classes of one-versus-rest ROC areas, as MedMNIST's evaluator"),
    "loss": Figure(
        "log loss", "mean negative log-likelihood in nats; probabilities from 1e-12", is_error=True, high=np.inf
    ),
    "brier": Figure(
        "Brier score", "mean squared distance to the indicators, 0 to 2 (Brier 1950)", is_error=True, high=2.0
    ),
    "ece": Figure("ECE", "expected calibration error, 15 bins of equal width (Guo et al. 2017)", is_error=True),
    "classwise_ece": Figure("class-wise ECE", "mean over classes of each one's ECE (Kull et al. 2019)", is_error=True),
    "augrc": Figure("AUGRC", "area under the generalized risk-coverage curve (Traub et al. 2024)", is_error=True),
}
OF_A_CLASS = ("precision", "recall", "f1", "auc")


@dataclass(frozen=True)
class Measured:
    """Figures of one weighting.

    Attributes:
        totals: (len(TOTALS),) in the order of `TOTALS`; NaN where a figure is not defined.
        classes: (classes, len(OF_A_CLASS)); NaN likewise.
    """

    totals: NDArray[np.float64]
    classes: NDArray[np.float64]


def measure(rows: ScoredRows, weights: Weights | None = None) -> Measured:
    """Return every figure of rows that count so often each; None is once each."""
    weights = np.ones(len(rows)) if weights is None else weights
    total = weights.sum()
    cells = rows.labels * rows.classes + rows.predicted
    confusion: NDArray[np.float64] = np.bincount(cells, weights, rows.classes**2).astype(np.float64)
    confusion = confusion.reshape(rows.classes, rows.classes)
    true, predicted, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    occurs = true + predicted > 0
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    areas = class_areas(rows, weights)
    values: dict[str, Callable[[], float]] = {
        "accuracy": lambda: hits.sum() / total,
        "balanced_accuracy": lambda: recall[true > 0].mean(),
        "precision": lambda: precision[occurs].mean(),
        "recall": lambda: recall[occurs].mean(),
        "f1": lambda: f1[occurs].mean(),
        "mcc": lambda: _matthews(confusion),
        "kappa": lambda: _kappa(confusion, 1.0 - np.eye(rows.classes)),
        "quadratic_kappa": lambda: _kappa(confusion, _squared_distances(rows.classes)),
        "auc": lambda: np.nan if np.isnan(areas).all() else float(np.nanmean(areas)),
        "loss": lambda: weights @ rows.log_loss / total,
        "brier": lambda: weights @ rows.brier / total,
        "ece": lambda: _calibration_error(rows.confidence_bin, weights * (rows.right - rows.confidence)) / total,
        "classwise_ece": lambda: _classwise_error(rows, weights) / total / rows.classes,
        "augrc": lambda: _augrc(rows, weights),
    }
    totals = np.array([values[name]() for name in TOTALS])
    return Measured(totals, np.stack([precision, recall, f1, areas], axis=1))


def class_areas(rows: ScoredRows, weights: Weights) -> NDArray[np.float64]:
    """Return the area under each class's one-versus-rest ROC curve (classes,), ties counted half.

    NaN where all rows are of the class, or none is.
    """
    areas = np.full(rows.classes, np.nan)
    for index, ranking in enumerate(rows.by_class):
        positive = weights * (rows.labels == index)
        positives, negatives = positive.sum(), weights.sum() - positive.sum()
        if positives > 0 and negatives > 0:
            above, below = ranking.sums(positive), ranking.sums(weights - positive)
            areas[index] = above @ (np.cumsum(below) - below / 2) / (positives * negatives)
    return areas


def risk_coverage(rows: ScoredRows, points: int = 100) -> list[tuple[float, float]]:
    """Return the risk-coverage curve: the error rate of the most confident share of the rows, at most `points` of it.

    Rows of equal confidence are accepted together (El-Yaniv & Wiener 2010).
    """
    ones = np.ones(len(rows))
    accepted = np.cumsum(rows.by_confidence.sums(ones))
    errors = np.cumsum(rows.by_confidence.sums(ones - rows.right))
    chosen = np.unique(np.linspace(0, len(accepted) - 1, points).round().astype(np.int64))
    return [(float(accepted[at] / len(rows)), float(errors[at] / accepted[at])) for at in chosen]


def _matthews(confusion: NDArray[np.float64]) -> float:
    true, predicted, total = confusion.sum(axis=1), confusion.sum(axis=0), confusion.sum()
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return 0.0 if spread <= 0 else float((np.trace(confusion) * total - true @ predicted) / np.sqrt(spread))


def _kappa(confusion: NDArray[np.float64], disagreement: NDArray[np.float64]) -> float:
    """Return 1 - observed / expected disagreement; NaN where none is expected, since one class is all."""
    expected = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    by_chance = (disagreement * expected).sum()
    return float(1 - (disagreement * confusion).sum() / by_chance) if by_chance > 0 else np.nan


def _squared_distances(classes: int) -> NDArray[np.float64]:
    index = np.arange(classes, dtype=np.float64)
    return (index[:, None] - index) ** 2


def _calibration_error(bins: NDArray[np.int64], excess: Weights) -> float:
    """Return the sum over bins of the absolute sum of accuracy minus confidence in each."""
    return float(np.abs(np.bincount(bins, excess)).sum())


def _classwise_error(rows: ScoredRows, weights: Weights) -> float:
    excess = (weights[:, None] * (rows.truth - rows.probabilities)).ravel()
    return float(np.abs(np.bincount(rows.class_bin, excess, BINS * rows.classes)).sum())


def _augrc(rows: ScoredRows, weights: Weights) -> float:
    """Return the area under (coverage, share of rows that are accepted and wrong), straight between the points."""
    accepted = rows.by_confidence.sums(weights)
    errors = rows.by_confidence.sums(weights * ~rows.right)
    return float(accepted @ (np.cumsum(errors) - errors / 2) / weights.sum() ** 2)
