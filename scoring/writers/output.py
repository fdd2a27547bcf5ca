"""Opens the file that predictions go into, whole or not at all, with the list of images that could not be read."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scoring.options import ErrorPolicy, PredictionOptions
from scoring.writers.lines import CsvWriter, JsonLinesWriter
from scoring.writers.parquet import ParquetWriter
from scoring.writers.rows import Answers, Rows, answers_of, printable, without_formula
from xtrain.errors import DataError, OutputError
from xtrain.files import STANDARD_OUTPUT, check_table, open_atomic, open_table, refuse_existing, refuse_inputs


class Writer(Protocol):
    """Takes what is written of the images that come next."""

    def add(self, answers: Answers) -> None:
        """Write it, or keep it until it fills a block."""

    def close(self) -> None:
        """Write what is left."""


SHOWN_ERRORS = 10  # where they do not go into a file
ERRORS_HEADER = ("ID", "NAME", "ERROR")
WRITERS: dict[str, Any] = {".csv": CsvWriter, ".jsonl": JsonLinesWriter, ".parquet": ParquetWriter}


@dataclass(frozen=True)
class Destination:
    """Where predictions go, and what is written.

    Attributes:
        path: `.csv`, `.jsonl`, `.parquet`, or `-` for CSV on the standard output.
        overwrite: whether an existing file may be replaced.
        options: what is written of an image.
    """

    path: Path
    overwrite: bool = False
    options: PredictionOptions = PredictionOptions()

    @property
    def errors_path(self) -> Path | None:
        """Where images are named that could not be read; None beside the standard output."""
        return None if str(self.path) in STANDARD_OUTPUT else self.path.with_suffix(".errors.csv")

    def refuse_inputs(self, inputs: Iterable[str | Path]) -> None:
        """Refuse to replace what is read, by the predictions or by the list of errors.

        Raises:
            OutputError: with the file.
        """
        for path in (self.path, self.errors_path):
            if path is not None and path.exists():
                refuse_inputs(path, inputs)

    def check(self, inputs: Iterable[str | Path]) -> None:
        """Refuse it before anything is computed.

        Raises:
            ConfigError: a name that ends in nothing that is written, or Parquet without pyarrow.
            OutputError: it is one of the inputs, exists and may not be replaced, or cannot be written.
        """
        inputs = list(inputs)
        inputs = list(inputs)
        check_table(self.path, inputs, self.overwrite, tuple(WRITERS))
        self.refuse_inputs(inputs)
        self.refuse_inputs(inputs)
        if self.path.suffix.lower() == ".parquet":
            from scoring.sources.tables import import_parquet

            import_parquet()
        path = self.errors_path
        if path is not None:
            if self.overwrite and path.is_file() and not _is_ours(path):
                raise OutputError(f"{path}: is not of xscore and would be replaced; move it away")
            refuse_existing(path, self.overwrite)


class PredictionFile:
    """An open file of predictions, which counts what it gets.

    Attributes:
        rows: images so far.
        errors: of them, those that could not be read.
        left_out: of these, those that are not written.
        reasons: of the first of them, where no file names them.
    """

    def __init__(self, writer: Writer, destination: Destination, policy: ErrorPolicy, stack: ExitStack) -> None:
        self._writer, self._destination, self._policy, self._stack = writer, destination, policy, stack
        self._errors: Any = None
        self.rows = self.errors = self.left_out = 0
        self.reasons: list[str] = []

    def add(self, rows: Rows) -> None:
        """Write the images that come next.

        Raises:
            DataError: other images come next.
        """
        if rows.first != self.rows:
            raise DataError(f"image {self.rows} should come next and {rows.first} came; this is a fault of xscore")
        for position, text in sorted(rows.errors.items()):
            self._report(rows, position, text)
        self._writer.add(answers_of(rows, self._destination.options, self._policy))
        self.rows += len(rows)

    def _report(self, rows: Rows, position: int, text: str) -> None:
        self.errors += 1
        self.left_out += self._policy.action == "skip"
        path = self._destination.errors_path
        if path is None:
            self.reasons += [printable(text)] if self.errors <= SHOWN_ERRORS else []
            return
        if self._errors is None:
            self._errors = csv.writer(self._stack.enter_context(open_atomic(path, "w")), lineterminator="\n")
            self._errors.writerow(ERRORS_HEADER)
        name = without_formula(printable(rows.name(position)))
        self._errors.writerow([rows.first + position, name, without_formula(printable(text))])


@contextmanager
def open_predictions(destination: Destination, classes: Sequence[str], policy: ErrorPolicy) -> Iterator[PredictionFile]:
    """Open a file of predictions; it takes its name when the block ends without an error.

    Args:
        destination: where, and what is written.
        classes: names of the model's classes.
        policy: what is written of images that could not be read.

    Raises:
        OutputError: it cannot be written; an existing file is then as it was.
    """
    kind = WRITERS.get(destination.path.suffix.lower(), CsvWriter)
    errors_path = destination.errors_path
    with ExitStack() as stack:
        file = stack.enter_context(open_table(destination.path, binary=kind.binary))
        writer = kind(file, classes, destination.options)
        predictions = PredictionFile(writer, destination, policy, stack)
        try:
            yield predictions
        except BaseException:
            with suppress(Exception):  # what it still writes is not kept
                writer.close()
            raise
        writer.close()
    if not predictions.errors and errors_path is not None and _is_ours(errors_path):
        errors_path.unlink()  # of an earlier command, whose errors are not these predictions'


def _is_ours(path: Path) -> bool:
    """Return whether a file is a list of images that could not be read."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            head = ",".join(ERRORS_HEADER).encode() + b"\n"
            return file.read(len(head)) == head
    except OSError:
        return False
