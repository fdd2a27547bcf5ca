"""Predictions of a split as a Kaggle CSV; what `xscore` and `xtrain.score` call."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scoring.options import ScoringOptions
from scoring.readers import Selection, read_rows
from serving.model.predictor import MAX_RUN, Predictor
from serving.model.submission import submission
from xtrain.errors import ConfigError
from xtrain.files import check_csv, open_csv
from xtrain.options import check


@dataclass(frozen=True)
class Scored:
    """What was written: where, how many rows, of which split under which protocol, how many seen in training."""

    path: Path
    rows: int
    split: str
    protocol: str
    overlap: str | None = None

    def describe(self) -> str:
        """Return one line for a person, and another where the model was trained on some of the images."""
        line = f"{self.path}: {self.rows} predictions, {self.split} split, {self.protocol} protocol"
        return line if self.overlap is None else f"{line}\n{self.overlap}"


def score(
    model: Predictor | Path, options: ScoringOptions, data: str, output: Path, *, overwrite: bool = False
) -> Scored:
    """Write the class of every image of a split as `ID,CLASS`, in order.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set, path of an `.npz` or a `.npy`, labelled or not, or a folder of pictures.
        output: the `.csv` to write, or `-` for the standard output.
        overwrite: whether an existing file may be replaced.

    Raises:
        XtrainError: of the fitting kind; an existing file is then as it was.
    """
    check(options)
    if options.allow_overlap:
        raise ConfigError("--allow-overlap is for figures; predictions are written in any case, so leave it out")
    check_csv(output, [data, model.path if isinstance(model, Predictor) else model], overwrite)
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    selection = read_rows(predictor.card, data, options)
    text = submission(predict_rows(predictor, selection))
    with open_csv(output) as file:
        file.write(text)
    overlap = selection.overlap if selection.seen else None
    return Scored(output, len(selection.rows), selection.split, selection.protocol, overlap)


def predict_rows(predictor: Predictor, selection: Selection) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of every image of a selection, read in parts where it is not in memory."""
    images = selection.rows.images
    parts = [predictor.predict(images[start : start + MAX_RUN]) for start in range(0, len(images), MAX_RUN)]
    return np.concatenate(parts)
