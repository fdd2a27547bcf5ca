"""Predictions of a split as a file; what `xscore` and `xtrain.score` call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scoring.options import PredictionOptions, ScoringOptions
from scoring.readers import Selection, read_rows
from scoring.writers import WRITERS, CsvWriter
from serving.model.predictor import MAX_RUN, Predictor
from xtrain.errors import ConfigError
from xtrain.files import check_table, open_table
from xtrain.options import check


@dataclass(frozen=True)
class Output:
    """Where predictions go, and what is written.

    Attributes:
        path: `.csv`, `.jsonl`, or `-` for CSV on the standard output.
        overwrite: whether an existing file may be replaced.
        options: what a line holds.
        progress: called with the images done and all images, after every run.
    """

    path: Path
    overwrite: bool = False
    options: PredictionOptions = PredictionOptions()
    progress: Callable[[int, int], None] | None = None


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


def score(model: Predictor | Path, options: ScoringOptions, data: str, output: Output) -> Scored:
    """Write the class of every image of a split, in order.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set, path of an `.npz` or a `.npy`, labelled or not, or a folder of pictures.
        output: where the predictions go.

    Raises:
        XtrainError: of the fitting kind; an existing file is then as it was.
    """
    check(options)
    check(output.options)
    if options.allow_overlap:
        raise ConfigError("--allow-overlap is for figures; predictions are written in any case, so leave it out")
    inputs: list[str | Path] = [data, model.path if isinstance(model, Predictor) else model]
    check_table(output.path, inputs, output.overwrite, tuple(WRITERS))
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    selection = read_rows(predictor.card, data, options)
    rows = 0
    with open_table(output.path) as file:
        writer = WRITERS.get(output.path.suffix.lower(), CsvWriter)(file, predictor.card.classes, output.options)
        for probabilities in predict_parts(predictor, selection):
            writer.add(probabilities)
            rows += len(probabilities)
            if output.progress:
                output.progress(rows, len(selection.rows))
    overlap = selection.overlap if selection.seen else None
    return Scored(output.path, rows, selection.split, selection.protocol, overlap)


def predict_rows(predictor: Predictor, selection: Selection) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of every image of a selection."""
    return np.concatenate(list(predict_parts(predictor, selection)))


def predict_parts(predictor: Predictor, selection: Selection) -> Iterator[NDArray[np.float32]]:
    """Yield the probabilities (n, classes) of the images of a selection, read in parts where it is not in memory."""
    images = selection.rows.images
    for start in range(0, len(images), MAX_RUN):
        yield predictor.predict(images[start : start + MAX_RUN])
