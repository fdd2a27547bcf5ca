"""Predictions as Parquet: a column for the id, the class, its label and probability, and for what else is asked for."""

import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from scoring.options import PredictionOptions
from scoring.sources.tables import import_parquet
from scoring.writers.rows import NO_CLASS, Answers

GROUP_ROWS = 65_536  # of a row group; fixed, so that the same predictions are the same bytes however they came


class ParquetWriter:
    """Collects rows into row groups of one size and writes these."""

    binary = True

    def __init__(self, file: IO[Any], classes: Sequence[str], options: PredictionOptions) -> None:
        """Begin the file.

        Raises:
            ConfigError: pyarrow is not installed.
        """
        parquet = import_parquet()
        import pyarrow

        self._arrow, self._classes, self._options = pyarrow, list(classes), options
        self._top = min(options.top or 1, len(classes))
        numbers = pyarrow.list_(pyarrow.float32(), len(classes))
        fields = [
            ("id", pyarrow.string() if options.id == "filename" else pyarrow.int64()),
            ("class", pyarrow.int32()),
            ("label", pyarrow.string()),
            ("probability", pyarrow.float32()),
        ]
        if options.top is not None:
            fields += [
                ("top_classes", pyarrow.list_(pyarrow.int32(), self._top)),
                ("top_probabilities", pyarrow.list_(pyarrow.float32(), self._top)),
            ]
        fields += [("probabilities", numbers)] if options.probabilities else []
        self._schema = pyarrow.schema(fields, metadata={"classes": json.dumps(self._classes, ensure_ascii=False)})
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows = 0

    def add(self, answers: Answers) -> None:
        """Take the rows, and write those that fill a row group."""
        self._waiting.append(self._batch(answers))
        self._rows += len(answers)
        while self._rows >= GROUP_ROWS:
            table = self._table()
            self._writer.write_table(table.slice(0, GROUP_ROWS), row_group_size=GROUP_ROWS)
            rest = table.slice(GROUP_ROWS)
            self._waiting, self._rows = rest.to_batches(), len(rest)

    def close(self) -> None:
        """Write the last row group and the footer."""
        if self._rows:
            self._writer.write_table(self._table(), row_group_size=GROUP_ROWS)
        self._writer.close()

    def _table(self) -> Any:
        return self._arrow.Table.from_batches(self._waiting, self._schema).combine_chunks()

    def _batch(self, answers: Answers) -> Any:
        arrow = self._arrow
        without = answers.classes == NO_CLASS
        classes = arrow.array(answers.classes.astype(np.int32), mask=without)
        names = arrow.array(self._classes, arrow.string())
        ranked, ordered = answers.ranked(self._top)
        columns = [
            arrow.array(list(answers.ids), self._schema.field("id").type),
            classes,
            names.take(classes),
            arrow.array(ordered[:, 0], mask=np.isnan(ordered[:, 0])),
        ]
        if self._options.top is not None:
            columns += [self._lists(ranked.astype(np.int32)), self._lists(ordered)]
        if self._options.probabilities:
            columns.append(self._lists(answers.probabilities))
        return arrow.record_batch(columns, schema=self._schema)

    def _lists(self, values: Any) -> Any:
        return self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(values.reshape(-1)), values.shape[1])
