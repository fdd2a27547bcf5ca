"""Other models on the rows that were measured: exported files, or predictions that somebody published as CSV.

Flows in: the measured rows and the files to compare with. Flows out: a `Comparison`, after each file was seen to be a
fair rival: the same rows, the same classes, and none of them seen in training.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.evaluation.predictions import read_predictions
from scoring.figures.comparison import Comparison, compare
from scoring.figures.rows import ScoredRows
from scoring.options import ScoringOptions
from scoring.readers import Selection, refuse_overlap, select_rows
from scoring.scorer import predict_rows
from serving.model.card import Card
from serving.model.predictor import Predictor
from xtrain.data.datasets import numbers_as_names
from xtrain.data.digests import row_digests
from xtrain.errors import ConfigError, DataError


@dataclass(frozen=True)
class Rivals:
    """What a model is compared with.

    Attributes:
        compare: an `.onnx` or a CSV of MedMNIST's evaluator, or several: one for each seed.
        also: the measured model's other seeds, so that models are compared in pairs.
    """

    compare: tuple[Path, ...]
    also: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise ConfigError unless the files make pairs."""
        if self.also and not self.compare:
            raise ConfigError("--also is for --compare: it names other seeds of the measured model; leave it out")
        if len(self.compare) != 1 + len(self.also):
            raise ConfigError(
                f"{1 + len(self.also)} model(s) against {len(self.compare)}: seeds are compared in pairs, so give as "
                "many --compare as there are models, the first and each --also"
            )


def compare_rivals(
    rivals: Rivals, card: Card, rows: ScoredRows, selection: Selection, options: ScoringOptions, resamples: int
) -> Comparison:
    """Return what the measured model, over its seeds, has over the others.

    Args:
        rivals: the files.
        card: of the measured model.
        rows: as it scored them.
        selection: the rows, and what they are of.
        options: how they were chosen.
        resamples: for the intervals.

    Raises:
        ConfigError: files that make no pairs.
        DataError: other classes, other rows, rows seen in training, a CSV that cannot be read.
        ModelFileError: a model that cannot be loaded.
    """
    rivals.check()
    first = [(card.name, rows), *(_score(path, card, rows, selection, options) for path in rivals.also)]
    second = [_score(path, card, rows, selection, options) for path in rivals.compare]
    names = [", ".join(name for name, _ in side) for side in (first, second)]
    return compare([each for _, each in first], [each for _, each in second], (names[0], names[1]), resamples)


def _score(
    path: Path, card: Card, rows: ScoredRows, selection: Selection, options: ScoringOptions
) -> tuple[str, ScoredRows]:
    """Return a rival's name and the measured rows as it scores them."""
    if path.suffix.lower() == ".csv":
        return path.stem, ScoredRows(rows.labels, read_predictions(path, len(rows), rows.classes))
    predictor = Predictor(path, options.device)
    names, numbers = {predictor.card.classes, card.classes}, numbers_as_names(rows.classes)
    if len(names - {numbers}) > 1 or len(predictor.card.classes) != rows.classes:
        raise DataError(f"{path}: its classes are not those of {card.name}; compare models of the same classes")
    own = select_rows(predictor.card, selection.dataset, options)
    same = len(own.rows) == len(rows) and own.protocol == selection.protocol
    if not same or not np.array_equal(row_digests(own.rows.images), row_digests(selection.rows.images)):
        raise DataError(
            f"{path}: was trained on another division of {selection.dataset.name}, so its {own.split} rows are others; "
            "compare models of one protocol and one --split-seed"
        )
    if not options.allow_overlap:
        refuse_overlap(own, f"{path}: ")
    return predictor.card.name, ScoredRows(rows.labels, predict_rows(predictor, own).astype(np.float64))
