"""Figures of a classifier from its labels and probabilities, in plain numpy so that serving can report them too.

Definitions are scikit-learn's (macro averages over the classes that occur, absent denominators count as 0);
the tests hold them against it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metrics:
    """Metrics of one split; fractions, not percents.

    `accuracy_interval` is the 95 % Wilson score interval of the accuracy (Wilson 1927), which says how far a
    split of `rows` images can tell two accuracies apart. `auc` is the macro one-versus-rest area under the
    ROC curve, None where no class has both positives and negatives. `ece` is the expected calibration error
    (Guo et al. 2017, eq. 3): how far confidence and accuracy lie apart; None in figures from before it was kept.
    """

    rows: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    precision: float
    recall: float
    f1: float
    auc: float | None
    loss: float
    confusion: list[list[int]]
    ece: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "accuracy_interval": list(self.accuracy_interval)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Metrics":
        """Read back what `as_json` gave; keys that are no metrics, such as the protocol beside them, are ignored."""
        low, high = values["accuracy_interval"]
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**{**known, "accuracy_interval": (low, high)})


def confusion_matrix(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix (classes, classes) int64, rows are true classes."""
    counts = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927); (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def auc_one_versus_rest(labels: NDArray[Any], probabilities: NDArray[Any]) -> float | None:
    """Return the macro mean over classes of the Mann-Whitney statistic, ties counted half.

    Args:
        labels: (N,) integers.
        probabilities: (N, classes) floats.
    """
    areas = []
    for index in range(probabilities.shape[1]):
        positive = labels == index
        n_positive = int(positive.sum())
        n_negative = len(labels) - n_positive
        if n_positive == 0 or n_negative == 0:
            continue
        _, inverse, counts = np.unique(probabilities[:, index], return_inverse=True, return_counts=True)
        ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each group of ties, from 1
        u = ranks[inverse][positive].sum() - n_positive * (n_positive + 1) / 2
        areas.append(u / (n_positive * n_negative))
    return float(np.mean(areas)) if areas else None


@dataclass(frozen=True)
class Bin:
    """Rows whose top probability lies in one interval: how many, its mean, and the share that is right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def calibration_bins(labels: NDArray[Any], probabilities: NDArray[Any], bins: int = 15) -> list[Bin]:
    """Return the calibration curve: equal-width bins of the top class's probability, those without rows left out.

    Args:
        labels: (N,) integers.
        probabilities: (N, classes) floats.
        bins: how many; 15 as in Guo et al. 2017.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bin_of_row = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (low, high], as in the paper
    curve = []
    for index in np.unique(bin_of_row):
        inside = bin_of_row == index
        accuracy, mean = float(right[inside].mean()), float(confidence[inside].mean())
        curve.append(Bin(index / bins, (index + 1) / bins, int(inside.sum()), mean, accuracy))
    return curve


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance of confidence and accuracy over the rows (Guo et al. 2017, eq. 3)."""
    rows = sum(item.rows for item in bins)
    return sum(item.rows * abs(item.confidence - item.accuracy) for item in bins) / rows


def evaluate(labels: NDArray[Any], probabilities: NDArray[Any]) -> Metrics:
    """Return all metrics of one split.

    Args:
        labels: (N,) integers in [0, classes), N at least 1.
        probabilities: (N, classes) floats whose rows sum to 1.
    """
    rows, classes = probabilities.shape
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), classes)
    hits = np.diag(confusion).astype(np.float64)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = (true + predicted) > 0
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    chosen = probabilities[np.arange(rows), labels].astype(np.float64)
    return Metrics(
        rows=rows,
        accuracy=float(hits.sum() / rows),
        accuracy_interval=wilson_interval(int(hits.sum()), rows),
        precision=float(precision[occurs].mean()),
        recall=float(recall[occurs].mean()),
        f1=float(f1[occurs].mean()),
        auc=auc_one_versus_rest(labels, probabilities),
        loss=float(-np.log(np.clip(chosen, 1e-12, 1.0)).mean()),
        confusion=confusion.tolist(),
        ece=expected_calibration_error(calibration_bins(labels, probabilities)),
    )


def format_metrics(metrics: Metrics, classes: Sequence[str]) -> str:
    """Return the metrics as text for a person: totals, then recall and precision of every class."""
    low, high = metrics.accuracy_interval
    auc = "-" if metrics.auc is None else f"{metrics.auc:.4f}"
    ece = "-" if metrics.ece is None else f"{metrics.ece:.4f}"
    lines = [
        f"accuracy  {metrics.accuracy:.4f}  (95 % interval {low:.4f} to {high:.4f}, {metrics.rows} images)",
        f"precision {metrics.precision:.4f}  recall {metrics.recall:.4f}  F1 {metrics.f1:.4f}  (macro)",
        f"AUC       {auc}  (macro, one versus rest)   log loss {metrics.loss:.4f}   ECE {ece}",
    ]
    matrix = np.asarray(metrics.confusion)
    width = max(len(name) for name in classes)
    for index, name in enumerate(classes):
        true, predicted, hits = matrix[index].sum(), matrix[:, index].sum(), matrix[index, index]
        recall = f"{hits / true:.4f}" if true else "-"
        precision = f"{hits / predicted:.4f}" if predicted else "-"
        lines.append(f"  {index} {name:<{width}}  recall {recall:>6}  precision {precision:>6}  of {true}")
    return "\n".join(lines)
