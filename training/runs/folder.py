"""The run folder: what a training run leaves behind, written so that it is consistent after every epoch."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtrain.files import open_atomic
from xtrain.errors import OutputError

CONFIG, METRICS, BEST, LAST, SUMMARY = "config.json", "metrics.jsonl", "best.pt", "last.pt", "summary.json"
CURVES, CONFUSION, CLASSES = "curves.png", "confusion.png", "classes.png"
TENSORBOARD = "tensorboard"  # a folder
FILES = (CONFIG, METRICS, BEST, LAST, SUMMARY, CURVES, CONFUSION, CLASSES)


class RunFolder:
    """Claims a folder for a run and writes its files.

    Nothing on disk changes before the first epoch is complete: a run that fails on its input, or is interrupted
    before it has anything to keep, leaves an earlier run in the same place as it was.
    """

    def __init__(self, path: Path, overwrite: bool = False, resume: bool = False) -> None:
        """Look at the place without touching it; to `resume` is to go on with the run that is there.

        Raises:
            OutputError: a run is there already and `overwrite` is off, or the path cannot be a folder.
        """
        self.path = path
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, not a folder; choose another -o")
        taken = [name for name in FILES if (path / name).exists()]
        if taken and not overwrite and not resume:
            raise OutputError(f"{path}: holds a run already ({taken[0]}); choose another -o or add --overwrite")
        self._opened = resume
        if resume:
            self._sweep()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def open(self, config: dict[str, Any]) -> None:
        """Take the folder over: remove an earlier run's files and write the configuration; the first call counts."""
        if self._opened:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
            self._sweep()
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}; choose another -o") from error
        write_json(self.path / CONFIG, config)
        self._opened = True

    def _sweep(self) -> None:
        """Remove temporary files of a process that was killed while it wrote."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def record(self, history: Sequence[dict[str, Any]]) -> None:
        """Write one JSON line an epoch; the whole file is replaced, so a reader never sees half a line."""
        with open_atomic(self.path / METRICS, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in history)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write indented JSON atomically."""
    with open_atomic(path, "w") as file:
        file.write(json.dumps(values, indent=2) + "\n")
