"""Finds out what the user's DATA is: a data set, a folder, a pattern, an archive, a list or a table."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scoring.options import ReadingOptions, ScoringOptions
from scoring.sources.archives import TAR_SUFFIXES, ZIP_SUFFIXES, tar_shard, zip_source
from scoring.sources.arrays import array_source
from scoring.sources.files import files_in, files_of, files_source, is_pattern
from scoring.sources.iterables import iterable_source
from scoring.sources.source import SUFFIXES, ImageFile, Shape, Source
from scoring.sources.tables import csv_source, parquet_shards
from serving.model.card import Card
from xtrain.data import catalog
from xtrain.data.folders import SPLIT_FOLDERS
from xtrain.errors import ConfigError, DataError
from xtrain.options import check

KINDS = {
    "pictures": SUFFIXES,
    "zip": ZIP_SUFFIXES,
    "tar": TAR_SUFFIXES,
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
}


@dataclass(frozen=True)
class ImageInput:
    """What is to be scored, and how it is read.

    Attributes:
        data: a data set's name, a file, a folder, a pattern, or an iterable of `(name, image)`.
        options: which split, under which protocol; for data sets alone.
        reading: how images are read.
    """

    data: str | Iterable[Any]
    options: ScoringOptions = ScoringOptions()
    reading: ReadingOptions = ReadingOptions()

    def check(self) -> None:
        """Refuse options that are out of range, or of `xeval` alone.

        Raises:
            ConfigError: with the option.
        """
        check(self.options)
        check(self.reading)
        if self.options.allow_overlap:
            raise ConfigError("--allow-overlap is for figures; predictions are written in any case, so leave it out")


def open_source(images: ImageInput, card: Card) -> Source:
    """Return what is to be scored as shards.

    Args:
        images: what, and how it is read.
        card: of the model, for the shape of its images and to know its training data again.

    Raises:
        ConfigError: a name that is unknown, or options that mean nothing for this data.
        DataError: it cannot be read, or holds no images.
    """
    data, options, reading = images.data, images.options, images.reading
    if not isinstance(data, str):
        _refuse_split(options, "an iterable")
        return iterable_source(data, card.shape)
    path = Path(os.path.expanduser(data))  # of an unknown user it stays as it is
    files = None if catalog.is_name(data) else _files(data, path, options)
    if files is not None:
        if not path.is_dir():
            _refuse_split(options, data)
        source = _from_files(files, path, card.shape, reading)
    else:
        if reading.column is not None:
            raise ConfigError("--column is for a list or a table of images; leave it out")
        source = array_source(card, data, options, reading.shard_rows)
    if not source.shards:
        raise DataError(f"{data}: holds no images; name other data")
    return source


def _files(data: str, path: Path, options: ScoringOptions) -> list[tuple[str, str]] | None:
    """Return the files that DATA stands for, with their names; None for what is read as a data set."""
    if path.is_dir():
        return None if _is_divided(path, options) else files_in(path)
    if path.is_file():
        return [(path.name, str(path))] if _kind(str(path)) else None
    return files_of(str(path)) if not path.exists() and is_pattern(data) else None


def _from_files(files: Sequence[tuple[str, str]], whole: Path, shape: Shape, reading: ReadingOptions) -> Source:
    """Return the files of one kind as a source.

    Raises:
        DataError: files of several kinds, or none that is read.
    """
    of_kind: dict[str, list[tuple[str, str]]] = {}
    for name, path in files:
        of_kind.setdefault(_kind(path) or "", []).append((name, path))
    left_out = of_kind.pop("", [])
    if whole.is_dir() and len(of_kind) > 1:  # a list of labels beside the pictures is none of them
        left_out += of_kind.pop("csv", [])
    if len(of_kind) != 1:
        kinds = ", ".join(of_kind)
        known = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
        raise DataError(
            f"{whole}: holds files of several kinds ({kinds}); name one kind, such as '{whole}/**/*.png'"
            if of_kind
            else f"{whole}: holds no images that are read ({known}); name other data"
        )
    ((kind, chosen),) = of_kind.items()
    if reading.column is not None and kind not in ("csv", "parquet"):
        raise ConfigError("--column is for a list or a table of images; leave it out")
    notes = (f"{len(left_out)} other files are left out",) if left_out else ()
    if kind == "pictures":
        pictures = [ImageFile(name, path) for name, path in chosen]
        source = files_source(pictures, shape, reading.shard_rows, notes)
        return replace(source, files=[path for _, path in chosen])
    shards: list[Any] = []
    has_names = True
    for file in (Path(name) for _, name in chosen):
        if not file.is_file():
            raise DataError(f"{file}: is no file; remove it, or name other data")
        if kind == "tar":
            shards.append(tar_shard(file, shape))
        elif kind == "zip":
            shards += zip_source(file, shape, reading.shard_rows).shards
        elif kind == "csv":
            shards += csv_source(file, shape, reading.shard_rows, reading.column).shards
        else:
            more, named = parquet_shards(file, shape, reading.shard_rows, reading.column)
            shards += more
            has_names = has_names and named
    return Source(shards, has_names, notes=notes, files=tuple(name for _, name in chosen))


def _kind(path: str) -> str | None:
    """Return the kind of a file by its name; None for one that is not read."""
    name = path.lower()
    return next((kind for kind, suffixes in KINDS.items() if name.endswith(suffixes)), None)


def _is_divided(folder: Path, options: ScoringOptions) -> bool:
    """Return whether a folder is read as a data set of classes: a split of it is asked for, or it has its own."""
    if options.split not in (None, "all") or options.protocol is not None:
        return True
    words = {word for names in SPLIT_FOLDERS.values() for word in names}
    try:
        folders = [child.name.lower() for child in folder.iterdir() if child.is_dir() and child.name[0] != "."]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; name a folder that can be read") from error
    return options.split is None and bool(folders) and words.issuperset(folders)


def _refuse_split(options: ScoringOptions, data: str) -> None:
    if options.split not in (None, "all") or options.protocol is not None:
        flag = "--protocol" if options.protocol is not None else "--split"
        raise ConfigError(f"{flag} is for data sets; {data} has no splits, so leave it out")
