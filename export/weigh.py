"""The members' shares of an ensemble: equal, given, or chosen on the validation rows."""

import numpy as np
from numpy.typing import NDArray

from export.graph import SMALLEST
from xtrain.errors import ConfigError

ROUNDS = 100


def parse_weights(text: str, members: int) -> list[float]:
    """Shares of sum 1 from a list such as `0.6,0.4`, or `3,1`.

    Raises:
        ConfigError: not numbers, not one a member, or not all above 0.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {text}: neither auto nor numbers such as 0.6,0.4") from None
    if len(weights) != members:
        raise ConfigError(f"--weights {text}: {len(weights)} for {members} runs; give one a run, in their order")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"--weights {text}: each must be above 0; leave out the run that is to have none")
    shares = [weight / max(weights) for weight in weights]  # so that no sum overflows
    if min(shares) < 1e-6:
        raise ConfigError(f"--weights {text}: too far apart; leave out the run that has next to none")
    return [share / sum(shares) for share in shares]


def select_greedily(parts: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
    """Shares by ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.1).

    Round by round the member is added whose addition makes the log loss of the mean smallest; a member may be added
    again, and how often it was is its share. The best round counts, so that a member can be left out.

    Args:
        parts: members' probabilities (members, N, classes).
        labels: (N,) of the same rows.
    """
    right = parts[:, np.arange(len(labels)), labels].astype(np.float64)
    total, counts = np.zeros(len(labels)), np.zeros(len(parts), np.int64)
    best, kept = np.inf, counts
    for size in range(1, ROUNDS + 1):
        losses = [-np.log(np.maximum((total + part) / size, SMALLEST)).mean() for part in right]
        chosen = int(np.argmin(losses))
        total = total + right[chosen]
        counts = counts + (np.arange(len(parts)) == chosen)
        if losses[chosen] < best:
            best, kept = losses[chosen], counts
    return [float(count / kept.sum()) for count in kept]
