"""Predictions as lines of text: `ID,CLASS` for Kaggle, or an object an image.

Flows in: the images, part after part. Flows out: lines of a file that is open; nothing is kept.
"""

import csv
import json
from collections.abc import Sequence
from typing import IO, Any

from scoring.options import PredictionOptions
from scoring.writers.rows import NO_CLASS, Answers, shortest, without_formula
from serving.model.submission import HEADER


class CsvWriter:
    """Writes `ID,CLASS`, then the most probable classes or a column for each class where these are asked for."""

    binary = False

    def __init__(self, file: IO[Any], classes: Sequence[str], options: PredictionOptions) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._options = options
        head = list(HEADER)
        if options.top is not None:
            self._top = min(options.top, len(classes))
            head += ["PROBABILITY", *(f"{name}_{rank}" for rank in range(2, self._top + 1) for name in _RANKED)]
        if options.probabilities:
            head += [f"P({name})" for name in classes]
        self._writer.writerow(head)

    def add(self, answers: Answers) -> None:
        """Write a line an image."""
        ids: Any = answers.ids
        if self._options.id == "filename":
            ids = map(without_formula, answers.ids)  # type: ignore[arg-type]
        columns: list[Any] = [ids, answers.classes.tolist()]
        if self._options.top is not None:
            ranked, probabilities = answers.ranked(self._top)
            for rank, values in enumerate(zip(*shortest(probabilities), strict=True)):
                columns += [values] if rank == 0 else [ranked[:, rank].tolist(), values]
        if self._options.probabilities:
            columns += zip(*shortest(answers.probabilities), strict=True)
        self._writer.writerows(zip(*columns, strict=True))

    def close(self) -> None:
        """Write what is left: nothing."""


_RANKED = ("CLASS", "PROBABILITY")


class JsonLinesWriter:
    """Writes an object an image: `id`, `class`, `label`, `probability`; `top` and `probabilities` where asked for."""

    binary = False

    def __init__(self, file: IO[Any], classes: Sequence[str], options: PredictionOptions) -> None:
        self._file, self._classes, self._options = file, classes, options
        self._top = min(options.top or 1, len(classes))

    def add(self, answers: Answers) -> None:
        """Write a line an image."""
        ranked, ordered = answers.ranked(self._top)
        best = shortest(ordered)
        every = shortest(answers.probabilities) if self._options.probabilities else None
        for position, (name, index) in enumerate(zip(answers.ids, answers.classes.tolist(), strict=True)):
            values = next(best)
            line: dict[str, Any] = {"id": name, "class": None, "label": None, "probability": values[0]}
            if index != NO_CLASS:
                line |= {"class": index, "label": self._classes[index]}
            if self._options.top is not None and values[0] is not None:
                pairs = zip(ranked[position].tolist(), values, strict=True)
                line["top"] = [{"class": k, "label": self._classes[k], "probability": value} for k, value in pairs]
            if every is not None:
                line["probabilities"] = next(every)
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Write what is left: nothing."""
