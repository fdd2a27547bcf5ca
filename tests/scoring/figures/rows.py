"""Rows of a calibrated classifier: labels drawn from the very probabilities."""

import numpy as np

from scoring.figures.rows import ScoredRows


def draw(count: int, classes: int = 5, seed: int = 0, sharpness: float = 1.0) -> ScoredRows:
    """Return rows whose labels follow the probabilities; another sharpness than 1 makes these wrong."""
    random = np.random.default_rng(seed)
    true = random.dirichlet(np.full(classes, 0.6), count)
    labels = np.array([random.choice(classes, p=row) for row in true])
    stated = np.clip(true, 1e-9, 1) ** sharpness
    return ScoredRows(labels, stated / stated.sum(axis=1, keepdims=True))
