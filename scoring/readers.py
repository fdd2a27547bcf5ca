"""Reads what is scored: the rows of a split, divided as in training, and how many of them the model was trained on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scoring.options import ALL, ScoringOptions
from serving.model.card import Card
from xtrain.data import catalog
from xtrain.data.archived import ArchivedRows
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import (
    SCORED_KEYS,
    Dataset,
    Images,
    Labels,
    Split,
    array_digest,
    as_images,
    check_shape,
)
from xtrain.data.digests import row_digests
from xtrain.data.formats import describe_file
from xtrain.data.splits import divide, natural_protocol, select
from xtrain.errors import ConfigError, DataError

ALLOWED_OVERLAP = 0.01  # data sets hold a few images twice


@dataclass(frozen=True)
class Selection:
    """The rows to score, with what must be said beside every figure of them.

    `seen` is how many of their images the model was trained on, by their pixels; None where it is not recorded.
    """

    rows: Split
    dataset: Dataset
    split: str
    protocol: str
    seen: int | None = None

    @property
    def overlap(self) -> str:
        """What `seen` says, in words."""
        if self.seen is None:
            return "whether the model was trained on some of these images is not recorded in its file"
        return overlap_in_words(self.seen, len(self.rows))


def overlap_in_words(seen: int, rows: int) -> str:
    """Return how many of some images a model was trained on, in words."""
    return f"the model was trained on {seen} of these {rows} images ({seen / rows if rows else 0.0:.1%})"


def read_rows(card: Card, data: str, options: ScoringOptions) -> Selection:
    """Return the rows of a split of a data set, divided as in training where it is the training data.

    Args:
        card: of the model that will score them.
        data: name of a data set, path of an `.npz` or a `.npy`, or a folder of pictures in folders of classes.
        options: which split, under which protocol; None is the training's own for the training data, else the file's.

    Raises:
        ConfigError: a protocol under which the model has already seen the rows.
        DataError: a file that cannot be read, an empty split, images of another shape, other classes.
    """
    plain = read_plain_array(Path(data).expanduser())
    if plain is None:
        loading = LoadOptions(data_dir=options.data_dir, shape=card.shape)
        plain = catalog.load(data, loading, classes=card.classes)
        if (
            plain.md5 == card.data.md5 and card.data.group_pattern
        ):  # divided as in training; other folders have no groups
            grouped = replace(loading, group_pattern=card.data.group_pattern)
            try:
                plain = catalog.load(data, grouped, classes=card.classes)
            except DataError as error:
                raise DataError(
                    f"{data}: these are the training pictures under other names, so their groups cannot be rebuilt "
                    f"({error}); name the folder that the model was trained on"
                ) from error
    return select_rows(card, plain, options)


def select_rows(card: Card, dataset: Dataset, options: ScoringOptions) -> Selection:
    """Return the rows of a split of a loaded data set.

    Raises:
        As `read_rows`.
    """
    check_shape(dataset, card.shape)
    is_training_data, trained = dataset.md5 == card.data.md5, card.data.protocol
    if is_training_data and options.protocol not in (None, trained):
        raise ConfigError(
            f"the model was trained on this file under the {trained} protocol; under {options.protocol} its "
            f"{options.split or 'test'} split holds rows it was trained on, so use --protocol {trained}"
        )
    protocol = options.protocol or (trained if is_training_data else natural_protocol(dataset))
    split = options.split or (ALL if len(dataset.splits) == 1 and not is_training_data else "test")
    if split == ALL:
        every = np.concatenate([dataset.rows_of(name) for name in dataset.splits])
        rows = dataset.take(every)
    else:
        data = card.data
        partition = divide(dataset, protocol, split_seed=data.split_seed, val_fraction=data.val_fraction)
        if is_training_data and partition.digest != data.split_digest:
            raise DataError("the split cannot be rebuilt as in training; use the version that trained the model")
        rows = select(dataset, partition, split)
    if not len(rows):
        raise DataError(f"{dataset.name}: holds no images; name other data")
    seen = None if card.training_rows is None else int(card.training_rows.contains(row_digests(rows.images)).sum())
    return Selection(rows, dataset, split, protocol, seen)


def refuse_overlap(selection: Selection, whose: str = "") -> None:
    """Refuse figures of rows that the model was trained on, unless the training split itself was asked for.

    Args:
        selection: the rows.
        whose: begins the message.

    Raises:
        DataError: more than 1 % of the rows.
    """
    if selection.split == "train" or selection.seen is None:
        return
    if selection.seen > ALLOWED_OVERLAP * len(selection.rows):
        raise DataError(
            f"{whose}{selection.dataset.name}, {selection.split} split: {selection.overlap}, so its figures would say "
            "nothing of new ones; name other data, or add --allow-overlap"
        )


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


def read_plain_array(path: Path, in_order: bool = False) -> Dataset | None:
    """Return images alone, as `POST /v1/score` takes them: a `.npy`, or an `.npz` with `images` or one array.

    None for everything else.

    Args:
        path: the file.
        in_order: whether the images stay in the file, to be read from the first to the last; without a digest.

    Raises:
        DataError: not readable, or not images.
    """
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        return None
    array: Any
    try:
        with open(path, "rb") as file:
            content = np.load(path if in_order and path.suffix == ".npy" else file, **_MODES[in_order])
            if isinstance(content, np.ndarray):
                array = content
            elif "images" in content.files or (len(content.files) == 1 and content.files[0] not in SCORED_KEYS):
                key = "images" if "images" in content.files else content.files[0]
                array = ArchivedRows(path, key) if in_order else content[key]
            else:
                return None
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise DataError(f"{path}: not a readable array but {describe_file(path)}") from error
    images: Images = as_images(array, str(path))
    md5 = "" if in_order else array_digest(images[:])
    return Dataset(path.stem, {"test": Split(images, None)}, ("",), md5, source=path.name)


_MODES: dict[bool, dict[str, Any]] = {False: {"allow_pickle": False}, True: {"allow_pickle": False, "mmap_mode": "r"}}
