"""The file of a shard: Parquet with all probabilities, from which any output can be made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scoring.jobs.job import FORMAT, JobDescription
from scoring.scorer import Scorer
from scoring.sources.source import Shard
from scoring.sources.tables import arrow_error, import_parquet
from scoring.writers.rows import Rows, classes_of, printable
from xtrain.errors import DataError
from xtrain.files import open_atomic

BATCH = 4096  # rows that are read and written at a time


def write_part(path: Path, job: JobDescription, scorer: Scorer, shard: Shard, progress: Any = None) -> int:
    """Compute a shard and write its file, whole or not at all; return its number of images.

    The columns are `row` (within the shard), `name`, `class`, `label`, `probability`, `probabilities` and `error`.

    Args:
        path: of the file.
        job: which stands in the file.
        scorer: the model.
        shard: the images.
        progress: called with the number of images of each part.

    Raises:
        XtrainError: of the fitting kind; then the file does not exist.
    """
    parquet = import_parquet()
    import pyarrow as arrow

    schema = _schema(arrow, job)
    rows = errors = 0
    with open_atomic(path) as file:
        waiting: list[Any] = []
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:

            def write(least: int) -> None:
                if sum(batch.num_rows for batch in waiting) >= least:
                    writer.write_table(arrow.Table.from_batches(waiting, schema).combine_chunks())
                    waiting.clear()

            for part in scorer.rows(shard):
                waiting.append(_batch(arrow, schema, job, part))
                rows, errors = rows + len(part), errors + len(part.errors)
                write(BATCH)
                if progress:
                    progress(len(part))
            write(1)
            writer.add_key_value_metadata({"rows": str(rows), "errors": str(errors), "shard": printable(shard.name)})
    return rows


def read_description(path: Path) -> tuple[JobDescription, int, int]:
    """Return what a part says of its job, and its numbers of rows and of errors.

    Raises:
        DataError: not a part, or a damaged one.
    """
    parquet = import_parquet()
    try:
        metadata = parquet.read_metadata(path)
        values = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items()}
        job = json.loads(values["job"])
        if job["format"] != FORMAT:
            raise DataError(f"{path}: has format {job['format']}, this version reads {FORMAT}; score it again")
        rows, errors = int(values["rows"]), int(values["errors"])
        if metadata.num_rows != rows:
            raise ValueError(f"{metadata.num_rows} rows, and it names {rows}")
        return JobDescription(**{**job, "classes": tuple(job["classes"])}), rows, errors
    except (OSError, arrow_error(), KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no part of xscore's, or damaged ({error}); remove it, and score it again") from error


def read_part(path: Path, first: int) -> Iterator[Rows]:
    """Yield the rows of a part in order, numbered from `first`.

    Raises:
        DataError: it is damaged.
    """
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=["row", "name", "probabilities", "error"]):
                count = batch.num_rows
                probabilities = batch.column("probabilities").flatten().to_numpy(zero_copy_only=False)
                names = batch.column("name").to_pylist()
                errors = {
                    index: text for index, text in enumerate(batch.column("error").to_pylist()) if text is not None
                }
                yield Rows(
                    first,
                    probabilities.reshape(count, -1).astype(np.float32, copy=False),
                    None if None in names else names,
                    errors,
                )
                first += count
    except (OSError, arrow_error(), ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it, and score it again") from error


def _schema(arrow: Any, job: JobDescription) -> Any:
    fields = [
        ("row", arrow.int64()),
        ("name", arrow.string()),
        ("class", arrow.int32()),
        ("label", arrow.string()),
        ("probability", arrow.float32()),
        ("probabilities", arrow.list_(arrow.float32(), len(job.classes))),
        ("error", arrow.string()),
    ]
    return arrow.schema(fields, metadata={"job": json.dumps(job.as_json(), sort_keys=True)})


def _batch(arrow: Any, schema: Any, job: JobDescription, rows: Rows) -> Any:
    unread = np.zeros(len(rows), np.bool_)
    unread[list(rows.errors)] = True
    classes = arrow.array(classes_of(rows.probabilities, None).astype(np.int32), mask=unread)
    names = [None] * len(rows) if rows.names is None else [printable(name) for name in rows.names]
    errors = [printable(rows.errors[index]) if index in rows.errors else None for index in range(len(rows))]
    values = arrow.array(np.ascontiguousarray(rows.probabilities).reshape(-1))
    columns = [
        arrow.array(np.arange(rows.first, rows.first + len(rows))),
        arrow.array(names, arrow.string()),
        classes,
        arrow.array(list(job.classes), arrow.string()).take(classes),
        arrow.array(rows.probabilities.max(axis=1), mask=unread),
        arrow.FixedSizeListArray.from_arrays(values, len(job.classes)),
        arrow.array(errors, arrow.string()),
    ]
    return arrow.record_batch(columns, schema=schema)
