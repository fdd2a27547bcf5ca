"""Reads what is scored: the rows of a split, divided as in training, and the labels that a solution file gives."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.options import ScoringOptions
from serving.model.card import Card
from serving.model.submission import HEADER
from xtrain.data import catalog
from xtrain.data.datasets import Dataset, Labels, Split
from xtrain.data.splits import divide, natural_protocol, select
from xtrain.errors import ConfigError, DataError


@dataclass(frozen=True)
class Selection:
    """The rows to score, with what must be said beside every figure of them."""

    rows: Split
    dataset: Dataset
    split: str
    protocol: str


def read_rows(card: Card, data: str, options: ScoringOptions) -> Selection:
    """Return the rows of a split of a data set, divided as in training where it is the training data.

    Args:
        card: of the model that will score them.
        data: name of a data set or path of an `.npz`, labelled or not.
        options: which split, under which protocol; None is the training's own for the training data, else the file's.

    Raises:
        ConfigError: a protocol under which the model has already seen the rows.
        DataError: a file that cannot be read, an empty split, or images of another shape.
    """
    return select_rows(card, catalog.load(data, options.data_dir, classes=card.classes), options)


def select_rows(card: Card, dataset: Dataset, options: ScoringOptions) -> Selection:
    """Return the rows of a split of a loaded data set.

    Raises:
        As `read_rows`.
    """
    is_training_data, trained = dataset.md5 == card.data.md5, card.data.protocol
    if is_training_data and options.protocol not in (None, trained):
        raise ConfigError(
            f"the model was trained on this file under the {trained} protocol; under {options.protocol} its "
            f"{options.split} split holds rows it was trained on, so use --protocol {trained}"
        )
    partition = divide(
        dataset,
        options.protocol or (trained if is_training_data else natural_protocol(dataset)),
        split_seed=card.data.split_seed,
        val_fraction=card.data.val_fraction,
    )
    if dataset.shape != card.shape:
        raise DataError(
            f"{dataset.name}: images are {dataset.shape}, the model takes {card.shape} (height, width, channels)"
        )
    return Selection(select(dataset, partition, options.split), dataset, options.split, partition.protocol)


def require_labels(selection: Selection) -> Labels:
    """Return the labels (N,) of a selection.

    Raises:
        DataError: the file holds them back.
    """
    if selection.rows.labels is None:
        raise DataError(
            f"{selection.dataset.name}: the {selection.split} labels are held back; give them with --solution "
            "FILE.csv, or write predictions with xscore"
        )
    return selection.rows.labels


def read_solution(path: Path, rows: int, classes: int) -> Labels:
    """Return the labels (N,) of an `ID,CLASS` file, in the order of the ids.

    Raises:
        DataError: unreadable, another header, ids that are not 0 to rows-1 once each, or unknown classes.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        class_of_id = {int(line[0]): int(line[1]) for line in lines[1:]}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a readable CSV of ID,CLASS ({error})") from error
    if not lines or lines[0] != HEADER or len(lines) - 1 != rows or set(class_of_id) != set(range(rows)):
        raise DataError(f"{path}: must have the header ID,CLASS and the ids 0-{rows - 1} once each")
    labels = np.array([class_of_id[index] for index in range(rows)], np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise DataError(f"{path}: a class lies outside 0-{classes - 1}")
    return labels
