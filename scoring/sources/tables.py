"""Tables as a source: a CSV or Parquet list of paths, or a Parquet file that holds the images' bytes.

The columns are named `image`, `path`, … or by `--column`; Hugging Face's `image` of bytes and path is known. pyarrow,
of the extra `[score]`, is loaded for Parquet alone.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.sources.archives import in_parts
from scoring.sources.files import files_source
from scoring.sources.source import SUFFIXES, ImageBytes, ImageFile, Part, Shape, Source, stamp
from xtrain.errors import ConfigError, DataError
from xtrain.files import read_csv

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "name")
CELLS = 8  # of images that are in memory at once, however large they are
BYTES_COLUMNS = ("image", "bytes", "content", "data", "img", "png", "jpg", "jpeg")
NAME_COLUMNS = ("__key__", "key", "id", "name", "filename", "file_name", "path")


@dataclass(frozen=True)
class ParquetShard:
    """Consecutive row groups of a Parquet file with the bytes of images."""

    name: str
    identity: str
    path: Path
    groups: Sequence[int]
    columns: tuple[str, str | None]
    shape: Shape
    rows: int
    first: int

    def parts(self) -> Iterator[Part]:
        """Yield the pictures in order.

        Raises:
            DataError: the file is damaged or was changed.
        """
        return in_parts(self._pictures(), self.shape)

    def _pictures(self) -> Iterator[ImageBytes | ImageFile]:
        parquet = import_parquet()
        column, naming = self.columns
        names = [name for name in self.columns if name]
        row = self.first
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(CELLS, self.groups, columns=names):
                    keys = batch.column(naming).to_pylist() if naming else [None] * batch.num_rows
                    for value, key in zip(batch.column(column), keys, strict=True):
                        content, own = _content(value.as_py())
                        name = next((str(name) for name in (key, own) if name is not None), f"{self.path.stem}/{row}")
                        yield ImageBytes(name, content) if content or not own else _listed(self.path, own)
                        row += 1
        except (OSError, KeyError, arrow_error()) as error:
            raise DataError(f"{self.path}: not a Parquet file that can be read ({error}); fetch it again") from error


def csv_source(path: Path, shape: Shape, shard_rows: int, column: str | None = None) -> Source:
    """Return the pictures that a CSV lists; relative paths begin at its folder.

    Args:
        path: the CSV, with a header.
        shape: (H, W, C) of the model's images.
        shard_rows: pictures of a shard.
        column: of the paths; None for the first of the usual names, or the only one.

    Raises:
        DataError: it cannot be read, has no such column, or a line without a path.
    """
    lines = read_csv(path, "name a CSV of paths")
    _, head = next(lines, (1, []))
    header = [name.strip() for name in head]
    if any(name.lower().endswith(SUFFIXES) for name in header):
        raise DataError(f"{path}: line 1 names a picture and no columns; begin with a line such as: path")
    chosen = header.index(_choose(path, column, header, PATH_COLUMNS))
    pictures = []
    for number, line in lines:
        if not line:
            continue
        if len(line) <= chosen or not line[chosen].strip():
            raise DataError(f"{path}: line {number} has no {header[chosen]}; give it a path or remove it")
        pictures.append(_listed(path, line[chosen].strip()))
    return files_source(pictures, shape, shard_rows)


def parquet_shards(path: Path, shape: Shape, shard_rows: int, column: str | None = None) -> tuple[Sequence[Any], bool]:
    """Return the shards of a Parquet file of images or of their paths, and whether the images have names.

    Args:
        path: the file.
        shape: (H, W, C) of the model's images.
        shard_rows: at least so many rows, in whole row groups, make a shard.
        column: of the images or paths; None for the first of the usual names, or the only one of its kind.

    Raises:
        DataError: it cannot be read, or has no such column.
        ConfigError: pyarrow is not installed.
    """
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            kinds = {field.name: _kind(field.type) for field in schema}
            counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            with_bytes = [name for name, kind in kinds.items() if kind in ("bytes", "image")]
            if not with_bytes or (column is not None and kinds.get(column) == "text"):
                texts = [name for name, kind in kinds.items() if kind == "text"]
                chosen = _choose(path, column, texts, PATH_COLUMNS)
                values = file.read(columns=[chosen]).column(chosen).to_pylist()
                pictures = [_listed(path, str(value or "")) for value in values]
                return files_source(pictures, shape, shard_rows).shards, True
    except (OSError, arrow_error()) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({error}); fetch it again") from error
    chosen = _choose(path, column, with_bytes, BYTES_COLUMNS)
    naming = next((name for name in NAME_COLUMNS if kinds.get(name) in ("text", "number") and name != chosen), None)
    shards, start, rows, groups = [], 0, 0, list[int]()
    for group, count in enumerate(counts):
        groups.append(group)
        rows += count
        if rows >= shard_rows or group == len(counts) - 1:
            name, identity = f"{path.name} rows {start}-{start + rows - 1}", f"{stamp(path)} {chosen} {groups}"
            shards.append(ParquetShard(name, identity, path, groups, (chosen, naming), shape, rows, start))
            start, rows, groups = start + rows, 0, []
    return [shard for shard in shards if shard.rows], naming is not None or kinds[chosen] == "image"


def import_parquet() -> Any:
    """Return `pyarrow.parquet`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow; pip install 'xtrain[score]'") from error
    return pyarrow.parquet


def arrow_error() -> type[Exception]:
    """Return what pyarrow raises."""
    import pyarrow

    error: type[Exception] = pyarrow.ArrowException
    return error


def _kind(of: Any) -> str:
    """Return `bytes`, `image` (Hugging Face's struct), `text`, `number`, or an empty string for any other type."""
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(of):
        of = of.value_type
    if types.is_binary(of) or types.is_large_binary(of):
        return "bytes"
    if types.is_struct(of):
        return "image" if of.get_field_index("bytes") >= 0 else ""
    if types.is_integer(of):
        return "number"
    return "text" if types.is_string(of) or types.is_large_string(of) else ""


def _content(value: Any) -> tuple[bytes, str | None]:
    """Return the bytes of a cell, and the name that Hugging Face keeps beside them; none for an empty cell."""
    if isinstance(value, dict):
        return value.get("bytes") or b"", value.get("path")
    return value or b"", None


def _choose(path: Path, column: str | None, names: Sequence[str], usual: Sequence[str]) -> str:
    """Return the column that was named, the first of the usual ones, or the only one.

    Raises:
        DataError: with the columns.
    """
    shown = ", ".join(names[:8]) or "none"
    if column is not None:
        if column not in names:
            raise DataError(f"{path}: has no column {column!r} of images or paths, but {shown}; correct --column")
        return column
    lowered = {name.lower(): name for name in reversed(names)}
    for name in usual:
        if name in lowered:
            return lowered[name]
    if len(names) == 1:
        return names[0]
    raise DataError(f"{path}: which column holds the images or their paths? Name it with --column; it has {shown}")


def _listed(path: Path, name: str) -> ImageFile:
    return ImageFile(name, os.path.join(path.parent, os.path.expanduser(name)))
