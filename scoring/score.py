"""Predictions of a split as a Kaggle CSV; what `xscore` and `xtrain.score` call."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scoring.options import ScoringOptions
from scoring.readers import Selection, read_rows
from serving.model.predictor import MAX_RUN, Predictor
from serving.model.submission import submission
from xtrain.files import open_atomic, refuse_existing
from xtrain.options import check


@dataclass(frozen=True)
class Scored:
    """What was written: where, how many rows, of which split under which protocol."""

    path: Path
    rows: int
    split: str
    protocol: str

    def describe(self) -> str:
        """Return one line for a person."""
        return f"{self.path}: {self.rows} predictions, {self.split} split, {self.protocol} protocol"


def score(
    model: Predictor | Path, options: ScoringOptions, data: str, output: Path, *, overwrite: bool = False
) -> Scored:
    """Write the class of every image of a split as `ID,CLASS`, in order.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set or path of an `.npz`, labelled or not.
        output: the CSV to write.
        overwrite: whether an existing file may be replaced.

    Raises:
        XtrainError: of the fitting kind; an existing file is then as it was.
    """
    check(options)
    refuse_existing(output, overwrite)
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    selection = read_rows(predictor.card, data, options)
    text = submission(predict_rows(predictor, selection))
    with open_atomic(output, "w") as file:
        file.write(text)
    return Scored(output, len(selection.rows), selection.split, selection.protocol)


def predict_rows(predictor: Predictor, selection: Selection) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of every image of a selection, read in parts where it is not in memory."""
    images = selection.rows.images
    parts = [predictor.predict(images[start : start + MAX_RUN]) for start in range(0, len(images), MAX_RUN)]
    return np.concatenate(parts)
