"""Rows of arrays as a source: an `.npz` in its order, an `.npy`, a named data set, a folder that is divided."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.options import ALL, ScoringOptions
from scoring.readers import Selection, read_plain_array, read_rows
from scoring.sources.source import Part, Shard, Source, stamp
from serving.model.card import Card
from serving.model.predictor import MAX_RUN
from xtrain.data import catalog
from xtrain.data.archived import ArchivedRows
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import Dataset, Images, check_shape
from xtrain.data.mapping import release
from xtrain.data.splits import is_own_split, natural_protocol
from xtrain.errors import DataError


@dataclass(frozen=True)
class ArrayShard:
    """Rows `start` to `stop` of images (N, H, W, C)."""

    name: str
    identity: str
    images: Images
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of images."""
        return self.stop - self.start

    def parts(self) -> Iterator[Part]:
        """Yield the images in order, as many at once as a run of the model takes."""
        for start in range(self.start, self.stop, MAX_RUN):
            images = self.images[start : min(start + MAX_RUN, self.stop)]
            if isinstance(images, np.memmap):
                images = np.array(images)
                release(self.images[:])
            yield Part(images)


def array_source(card: Card, data: str, options: ScoringOptions, shard_rows: int) -> Source:
    """Return the rows of a split of a data set, read from its file in order where they stand so.

    Args:
        card: of the model that will score them.
        data: name of a data set, path of an `.npz` or a `.npy`, or a folder of pictures in folders of classes.
        options: which split, under which protocol.
        shard_rows: images of a shard.

    Raises:
        ConfigError, DataError: as `scoring.readers.read_rows`.
    """
    return _in_file_order(card, data, options, shard_rows) or _selected(read_rows(card, data, options), shard_rows)


def _in_file_order(card: Card, data: str, options: ScoringOptions, shard_rows: int) -> Source | None:
    """Return rows that an `.npz` or `.npy` holds as they are asked for; None for all others."""
    path = Path(data).expanduser()
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        return None
    try:
        dataset = read_plain_array(path, in_order=True)
        if dataset is None:
            loading = LoadOptions(data_dir=options.data_dir, in_order=True)
            dataset = catalog.load(data, loading, classes=card.classes)
    except DataError as error:
        if isinstance(error.__cause__, ValueError) and "Fortran" in str(error.__cause__):
            return None
        raise
    check_shape(dataset, card.shape)
    is_training_data = dataset.md5 == card.data.md5
    protocol = options.protocol or (card.data.protocol if is_training_data else natural_protocol(dataset))
    if options.protocol and is_training_data and options.protocol != card.data.protocol:
        return None  # refused, in words, where rows are divided
    split = options.split or (ALL if len(dataset.splits) == 1 and not is_training_data else "test")
    if split == ALL:
        chosen = list(dataset.splits)
    elif is_own_split(dataset, protocol, split):
        chosen = [split]
    else:
        return None
    shards = [
        shard
        for name in chosen
        for shard in _shards(dataset, name, dataset.splits[name].images, f"{stamp(path)} {name}", shard_rows)
    ]
    return Source(shards, False, f"{split} split, {protocol} protocol", split, protocol)


def _selected(selection: Selection, shard_rows: int) -> Source:
    split, protocol = selection.split, selection.protocol
    identity = f"{selection.dataset.md5} {protocol} {split}"
    shards = _shards(selection.dataset, split, selection.rows.images, identity, shard_rows)
    return Source(shards, False, f"{split} split, {protocol} protocol", split, protocol)


def _shards(dataset: Dataset, split: str, images: Images, identity: str, shard_rows: int) -> Sequence[Shard]:
    if isinstance(images, ArchivedRows):
        identity += f" {images.checksum:08x}"
    return [
        ArrayShard(
            f"{dataset.name}, {split} rows {start}-{stop - 1}", f"{identity} {start}-{stop}", images, start, stop
        )
        for start in range(0, len(images), shard_rows)
        for stop in [min(start + shard_rows, len(images))]
    ]
