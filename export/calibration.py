"""One temperature for the exported probabilities, so that 0.8 means right four times out of five."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from export.graph import SMALLEST
from xtrain.metrics import evaluate

BOUNDS = (0.1, 10.0)


@dataclass(frozen=True)
class Calibration:
    """What was fitted, on which rows, and what it changed on them.

    `temperature` above 1 means that the network was too sure of itself. Expected calibration error over 15 bins
    and log loss are those of the rows that it was fitted on: one number fitted on them, so close to unseen ones.
    """

    temperature: float
    split: str
    rows: int
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float
    method: str = "temperature scaling (Guo et al. 2017)"

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def fit_temperature(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """The temperature of least log loss (Guo et al. 2017, section 4.2), within 0.1 to 10.

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
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), 6)


def calibrate(
    labels: NDArray[np.integer],
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    temperature: float,
    split: str = "val",
) -> Calibration:
    """Figures of a fitted temperature, from probabilities (N, classes) without and with it."""
    first, second = evaluate(labels, before), evaluate(labels, after)
    assert first.ece is not None and second.ece is not None
    return Calibration(temperature, split, len(labels), first.ece, second.ece, first.loss, second.loss)
