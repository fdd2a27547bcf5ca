"""Reads the CSV of held-back labels, and says in which line it is wrong."""

import numpy as np

from scoring.options import Solution
from xtrain.data.datasets import Labels
from xtrain.errors import DataError
from xtrain.files import read_csv


def read_solution(solution: Solution, rows: int, classes: int) -> Labels:
    """Return the labels (N,) of a solution file in the order of its ids, which are 0 to rows-1, once each.

    A byte order mark, any line ends and semicolons between the columns, as Excel writes them, are taken; other columns
    are ignored.

    Raises:
        DataError: with the line, and what is wrong with it.
    """
    path = solution.path
    lines = read_csv(path, "name the CSV of the labels with --solution")
    _, head = next(lines, (1, []))
    header = [name.strip() for name in head]
    columns = []
    for name, flag in ((solution.id_column, "--id-column"), (solution.class_column, "--class-column")):
        if name not in header:
            shown = ", ".join(header[:8]) or "nothing"
            raise DataError(f"{path}: line 1 has no column {name}, but {shown}; name it with {flag}")
        columns.append(header.index(name))
    labels = np.full(rows, -1, np.int64)
    for number, line in lines:
        if line:
            _read_line(labels, line, (columns[0], columns[1]), classes, f"{path}: line {number}")
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        raise DataError(f"{path}: {len(missing)} of {rows} ids have no line, the first is {missing[0]}; add them")
    return labels


def _read_line(labels: Labels, line: list[str], columns: tuple[int, int], classes: int, where: str) -> None:
    """Put the class of one line into its place.

    Raises:
        DataError: no numbers, an id twice or outside the rows, a class outside the model's.
    """
    try:
        row, label = (int(line[column]) for column in columns)
    except (ValueError, IndexError):
        raise DataError(f"{where} is {','.join(line)[:60]!r}; it must hold two whole numbers, id and class") from None
    if not 0 <= row < len(labels):
        raise DataError(f"{where}: id {row} is outside 0-{len(labels) - 1}, the images of the data; remove it")
    if labels[row] >= 0:
        raise DataError(f"{where}: id {row} stands in an earlier line too; remove one")
    if not 0 <= label < classes:
        raise DataError(f"{where}: class {label} is outside 0-{classes - 1}, the model's classes; correct it")
    labels[row] = label
