"""Reads predictions that others published, in the CSV layout of MedMNIST's evaluator: a row number, a score a class.

The file has no header; `medmnist.Evaluator.evaluate` writes it as `SET_SPLIT_[AUC]0.983_[ACC]0.907@RUN.csv`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xtrain.errors import DataError
from xtrain.files import read_csv

TOLERANCE = 1e-3  # of the sum of a row, which the file may have rounded


def read_predictions(path: Path, rows: int, classes: int) -> NDArray[np.float64]:
    """Return the probabilities (rows, classes) of a file, in the order of its row numbers, which are 0 to rows-1.

    Raises:
        DataError: with the line, and what is wrong with it.
    """
    probabilities = np.full((rows, classes), np.nan)
    for number, line in read_csv(path, "name an .onnx or a CSV of MedMNIST's evaluator"):
        if line:
            _read_line(probabilities, line, f"{path}: line {number}")
    missing = np.flatnonzero(np.isnan(probabilities[:, 0]))
    if len(missing):
        raise DataError(f"{path}: {len(missing)} of {rows} rows have no line, the first is {missing[0]}; add them")
    normalised: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
    return normalised


def _read_line(probabilities: NDArray[np.float64], line: list[str], where: str) -> None:
    """Put the scores of one line into its place.

    Raises:
        DataError: not a row number and a score a class, a row twice or outside the data, no probabilities.
    """
    rows, classes = probabilities.shape
    try:
        row, scores = int(line[0]), np.array([float(value) for value in line[1:]])
    except ValueError:
        raise DataError(f"{where} is {','.join(line)[:60]!r}; it must hold a row number and numbers alone") from None
    if len(scores) != classes:
        raise DataError(f"{where} has {len(scores)} scores; the model has {classes} classes")
    if not 0 <= row < rows:
        raise DataError(f"{where}: row {row} is outside 0-{rows - 1}, the rows of the split; name that split's file")
    if not np.isnan(probabilities[row, 0]):
        raise DataError(f"{where}: row {row} stands in an earlier line too; remove one")
    if not np.isfinite(scores).all() or scores.min() < -TOLERANCE or abs(scores.sum() - 1) > TOLERANCE:
        raise DataError(f"{where}: the scores are no probabilities that sum to 1; apply softmax before writing them")
    probabilities[row] = np.clip(scores, 0, 1)
