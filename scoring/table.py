"""Predictions as CSV: a line a file, its class, and the probabilities of all classes."""

import csv
from collections.abc import Sequence
from typing import IO, Any

from scoring.predict import Prediction
from scoring.writers.rows import without_formula

HEAD = ("FILE", "LABEL", "PROBABILITY", "ERROR")  # before a column for each class


class CsvTable:
    """Writes predictions as they come; files before the first one that was read wait for the classes."""

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._classes: list[str] | None = None
        self._waiting: list[Prediction] = []

    def add(self, prediction: Prediction) -> None:
        """Write a line, and those that waited for it."""
        self._waiting.append(prediction)
        if self._classes is None and prediction.probabilities is not None:
            self._begin(list(prediction.classes))
        if self._classes is not None:
            self._write(self._classes)

    def close(self) -> None:
        """Write what still waits: no file could be read, and no class is known."""
        if self._classes is None:
            self._begin([])
        self._write(self._classes or [])

    def _begin(self, classes: list[str]) -> None:
        self._classes = classes
        self._writer.writerow([*HEAD, *(f"P({name})" for name in classes)])

    def _write(self, classes: list[str]) -> None:
        for prediction in self._waiting:
            self._writer.writerow(_row(prediction, classes))
        self._waiting.clear()


def _row(prediction: Prediction, classes: Sequence[str]) -> list[Any]:
    """Return the fields of a line, under `HEAD` and the classes."""
    file = without_formula(prediction.file)
    probabilities = [(prediction.probabilities or {}).get(name, "") for name in classes]
    probability = "" if prediction.error else prediction.probability
    return [file, prediction.label or "", probability, prediction.error or "", *probabilities]
