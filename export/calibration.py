"""One temperature for the exported probabilities, so that 0.8 means right four times out of five."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from export.graph import SMALLEST
from serving.model.card_parts import Calibration
from xtrain.metrics import evaluate

BOUNDS = (0.1, 10.0)
FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """What temperatures change on rows that they were not fitted on: every fold with the others' temperature."""

    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float

    @property
    def better(self) -> bool:
        """Whether both the calibration error and the log loss become lower."""
        return self.ece_after < self.ece_before and self.log_loss_after < self.log_loss_before

    def describe(self) -> str:
        """Return the four figures in words."""
        return (
            f"on held-out folds the calibration error (ECE) goes from {self.ece_before:.4f} to {self.ece_after:.4f}, "
            f"the log loss from {self.log_loss_before:.4f} to {self.log_loss_after:.4f}"
        )


def cross_validate(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> HeldOut | None:
    """Return what temperature scaling does to rows it has not seen, in five folds; None for too few rows to divide.

    Args:
        labels: (N,) true classes.
        probabilities: (N, classes) at temperature 1.
    """
    if len(labels) < 2 * FOLDS:
        return None
    fold_of_row = np.random.RandomState(0).permutation(len(labels)) % FOLDS
    scaled = np.empty_like(probabilities)
    for fold in range(FOLDS):
        held = fold_of_row == fold
        scaled[held] = apply_temperature(probabilities[held], fit_temperature(labels[~held], probabilities[~held]))
    before, after = evaluate(labels, probabilities), evaluate(labels, scaled)
    assert before.ece is not None and after.ece is not None
    return HeldOut(before.ece, after.ece, before.loss, after.loss)


def apply_temperature(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.floating]:
    """Return probabilities (N, classes) with a temperature, as the exported graph computes them."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) / temperature
    scaled: NDArray[np.floating] = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    return scaled


def fit_temperature(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Return the temperature of least log loss (Guo et al. 2017, section 4.2), within 0.1 to 10.

    Args:
        labels: (N,) true classes.
        probabilities: (N, classes) at temperature 1.

    Returns:
        1.0 where every row is right already: the loss would then fall for ever towards temperature 0, and
        certainty is the one thing that such rows do not prove.
    """
    if (probabilities.argmax(axis=1) == labels).all():
        return 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    right = logs[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((logsumexp(logs * inverse, axis=1) - right * inverse).mean())

    low, high = np.log(BOUNDS)
    minimum = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(minimum.x)), 6)


def calibration_record(
    labels: NDArray[np.integer], before: NDArray[np.floating], after: NDArray[np.floating], temperature: float
) -> Calibration:
    """Return what a temperature, fitted on the validation rows, changed on them.

    Args:
        labels: (N,) true classes.
        before: probabilities (N, classes) without the temperature.
        after: probabilities with it.
        temperature: the fitted one.
    """
    first, second = evaluate(labels, before), evaluate(labels, after)
    assert first.ece is not None and second.ece is not None
    return Calibration(
        temperature=temperature,
        split="val",
        rows=len(labels),
        ece_before=first.ece,
        ece_after=second.ece,
        log_loss_before=first.loss,
        log_loss_after=second.loss,
    )
