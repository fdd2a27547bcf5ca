"""Predictions as a file: a line an image in order, as `ID,CLASS` for Kaggle or as JSON lines.

Flows in: probabilities, part after part. Flows out: lines of a file that is open; nothing is kept, so that memory does
not grow with the number of images.
"""

import csv
import json
from collections.abc import Sequence
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scoring.options import PredictionOptions
from serving.model.submission import HEADER

NO_CLASS = -1  # in a CSV, of an image whose best class is below the threshold


class Writer(Protocol):
    """Takes the probabilities (n, classes) of the images that come next."""

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Write a line an image."""


class CsvWriter:
    """Writes `ID,CLASS`, and a column for each class where the probabilities are asked for."""

    def __init__(self, file: IO[str], classes: Sequence[str], options: PredictionOptions) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._options, self._rows = options, 0
        self._writer.writerow([*HEADER, *(f"P({name})" for name in classes)] if options.probabilities else HEADER)

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Write a line an image."""
        chosen = classes_of(probabilities, self._options.threshold).tolist()
        lines: Any = enumerate(chosen, self._rows)
        if self._options.probabilities:
            lines = (
                [row, index, *values] for (row, index), values in zip(lines, _shortest(probabilities), strict=True)
            )
        self._writer.writerows(lines)
        self._rows += len(probabilities)


class JsonLinesWriter:
    """Writes an object an image: `id`, `class`, `label`, `probability`, and all `probabilities` where asked for."""

    def __init__(self, file: IO[str], classes: Sequence[str], options: PredictionOptions) -> None:
        self._file, self._classes, self._options, self._rows = file, classes, options, 0

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Write a line an image."""
        chosen = classes_of(probabilities, self._options.threshold).tolist()
        for index, values in zip(chosen, _shortest(probabilities), strict=True):
            line: dict[str, Any] = {"id": self._rows, "class": None, "label": None, "probability": max(values)}
            if index != NO_CLASS:
                line |= {"class": index, "label": self._classes[index]}
            if self._options.probabilities:
                line["probabilities"] = values
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._rows += 1


WRITERS: dict[str, type[CsvWriter] | type[JsonLinesWriter]] = {".csv": CsvWriter, ".jsonl": JsonLinesWriter}


def classes_of(probabilities: NDArray[np.float32], threshold: float | None) -> NDArray[np.int64]:
    """Return the most probable class of each image (n,), `NO_CLASS` where its probability is below the threshold."""
    chosen: NDArray[np.int64] = probabilities.argmax(axis=1)
    if threshold is not None:
        chosen[probabilities.max(axis=1) < threshold] = NO_CLASS
    return chosen


def _shortest(probabilities: NDArray[np.float32]) -> list[list[float]]:
    """Return the numbers with as many digits as tell one float32 from the next, not the 17 of a float64."""
    return [[float(str(value)) for value in row] for row in probabilities]
