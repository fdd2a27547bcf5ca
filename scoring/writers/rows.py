"""What is written of images: their ids, classes and probabilities, with those left out that could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scoring.options import ErrorPolicy, PredictionOptions
from xtrain.errors import ConfigError

NO_CLASS = -1  # in a CSV, of an image whose best class is below the threshold


@dataclass(frozen=True)
class Rows:
    """Some images in order, as the model sees them.

    Attributes:
        first: number of the first among all.
        probabilities: (n, classes) float32; NaN where the image could not be read.
        names: of the images, if they have any.
        errors: what is wrong, by position.
    """

    first: int
    probabilities: NDArray[np.float32]
    names: Sequence[str] | None = None
    errors: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.probabilities)

    def name(self, position: int) -> str:
        """Return what the image at a position is called in messages."""
        return self.names[position] if self.names is not None else str(self.first + position)


@dataclass(frozen=True)
class Answers:
    """What is written of some images: those that were read, and the others where they get a class.

    Attributes:
        ids: numbers or names.
        classes: (n,) int64; `NO_CLASS` below the threshold.
        probabilities: (n, classes) float32; NaN where the class is the one of `--on-error`.
    """

    ids: Sequence[int] | Sequence[str]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)

    def ranked(self, top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the most probable classes (n, top) and their probabilities, the first class first among equals."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top].astype(np.int64)
        values = np.take_along_axis(self.probabilities, order, axis=1)
        return np.where(np.isnan(values), NO_CLASS, order), values


def answers_of(rows: Rows, options: PredictionOptions, policy: ErrorPolicy) -> Answers:
    """Return what is written of some images.

    Raises:
        ConfigError: names are asked for, and the images have none.
    """
    if options.id == "filename" and rows.names is None:
        raise ConfigError("--id filename: these images are rows of an array and have no names; use --id row")
    chosen = classes_of(rows.probabilities, options.threshold)
    ids: Sequence[int] | Sequence[str] = range(rows.first, rows.first + len(rows))
    if options.id == "filename" and rows.names is not None:
        ids = [printable(name) for name in rows.names]
    if not rows.errors:
        return Answers(ids, chosen, rows.probabilities)
    if policy.index is not None:
        chosen[list(rows.errors)] = policy.index
        return Answers(ids, chosen, rows.probabilities)
    kept = [position for position in range(len(rows)) if position not in rows.errors]
    return Answers([ids[position] for position in kept], chosen[kept], rows.probabilities[kept])  # type: ignore[arg-type]


def classes_of(probabilities: NDArray[np.float32], threshold: float | None) -> NDArray[np.int64]:
    """Return the most probable class of each image (n,), `NO_CLASS` where its probability is below the threshold."""
    chosen: NDArray[np.int64] = probabilities.argmax(axis=1)
    if threshold is not None:
        chosen[probabilities.max(axis=1) < threshold] = NO_CLASS
    return chosen


def shortest(probabilities: NDArray[np.float32]) -> Iterator[list[float | None]]:
    """Yield each image's numbers with as many digits as tell one float32 from the next; None for what is NaN."""
    for row in probabilities:
        yield [None if value != value else float(str(value)) for value in row]


def printable(name: str) -> str:
    """Return a file's name in Unicode; bytes of no encoding are written with a backslash and their number."""
    return name.encode("utf-8", "backslashreplace").decode()


def without_formula(text: str) -> str:
    """Return a text that a spreadsheet takes for text: behind an apostrophe where it looks like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
