"""Scoring a whole split with the exported file: figures where there are labels, a Kaggle CSV in any case."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.model.card import Card
from serving.model.predictor import BATCH, Predictor
from serving.model.submission import HEADER
from xtrain.data.datasets import Dataset, Labels, Split
from xtrain.errors import ConfigError, DataError
from xtrain.data.splits import gather, natural_protocol, partition


@dataclass(frozen=True)
class Selection:
    """The rows to score, with what must be said beside every figure of them."""

    split: Split
    name: str
    protocol: str


def select(card: Card, dataset: Dataset, name: str, protocol: str | None = None) -> Selection:
    """Find the rows of a split, divided as in training where it is the training data.

    Args:
        card: of the model that will score them.
        dataset: labelled or not.
        name: `train`, `val` or `test`.
        protocol: `official` or `pooled`; None is the training's own for the training data, else the file's.

    Raises:
        ConfigError: a protocol under which the model has already seen the rows.
        DataError: an empty split, or images of another shape.
    """
    same_data = dataset.md5 == card.data["md5"]
    trained = str(card.data["protocol"])
    if same_data and protocol not in (None, trained):
        raise ConfigError(
            f"the model was trained on this file under the {trained} protocol; under {protocol} its {name} split "
            f"holds rows it was trained on, so use --protocol {trained}"
        )
    divided = partition(
        dataset,
        protocol or (trained if same_data else natural_protocol(dataset)),
        split_seed=int(card.data["split_seed"]),
        val_fraction=float(card.data["val_fraction"]),
    )
    if dataset.shape != card.shape:
        raise DataError(
            f"{dataset.name}: images are {dataset.shape}, the model takes {card.shape} (height, width, channels)"
        )
    return Selection(gather(dataset, divided, name), name, divided.protocol)


def require_labels(selection: Selection, dataset: Dataset) -> Labels:
    """The labels of a selection.

    Raises:
        DataError: the file holds them back.
    """
    if selection.split.labels is None:
        raise DataError(
            f"{dataset.name}: the {selection.name} labels are held back; give them with --solution FILE.csv, "
            "or write predictions with xscore"
        )
    return selection.split.labels


def predict_split(predictor: Predictor, selection: Selection) -> NDArray[np.float32]:
    """Probabilities (N, classes) of every image of a selection, read in parts where it is not in memory."""
    images = selection.split.images
    parts = [predictor.predict(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def read_solution(path: Path, rows: int, classes: int) -> Labels:
    """Labels (N,) from an `ID,CLASS` file, in the order of the ids.

    Raises:
        DataError: unreadable, another header, ids that are not 0 to rows-1 once each, or unknown classes.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        found = {int(line[0]): int(line[1]) for line in lines[1:]}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a readable CSV of ID,CLASS ({error})") from error
    if not lines or lines[0] != HEADER or len(lines) - 1 != rows or set(found) != set(range(rows)):
        raise DataError(f"{path}: must have the header ID,CLASS and the ids 0-{rows - 1} once each")
    labels = np.array([found[index] for index in range(rows)], np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise DataError(f"{path}: a class lies outside 0-{classes - 1}")
    return labels
