"""The run folder: what a training run leaves behind, consistent after every epoch, and reading it again.

Nothing here loads torch, except `Run.best` of a run that has no summary.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import CheckpointError, OutputError
from xtrain.files import open_atomic
from xtrain.metrics import Metrics

CONFIG, METRICS, BEST, LAST, SUMMARY = "config.json", "metrics.jsonl", "best.pt", "last.pt", "summary.json"
CURVES, CONFUSION, CLASSES = "curves.png", "confusion.png", "classes.png"
TENSORBOARD = "tensorboard"  # a folder
FILES = (CONFIG, METRICS, BEST, LAST, SUMMARY, CURVES, CONFUSION, CLASSES)


class RunFolder:
    """Reserves a folder for a run and writes its files.

    Nothing on disk changes before the first epoch is complete: a run that fails on its input, or is interrupted
    before it has anything to keep, leaves an earlier run in the same folder as it was.
    """

    def __init__(self, path: Path, overwrite: bool = False, resume: bool = False) -> None:
        """Check the folder without changing it; with `resume` it must hold the run to continue.

        Raises:
            OutputError: the folder holds a run already and `overwrite` is off, or the path cannot be a folder.
        """
        self.path = path
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, not a folder; choose another -o")
        taken = [name for name in FILES if (path / name).exists()]
        if taken and not overwrite and not resume:
            raise OutputError(f"{path}: holds a run already ({taken[0]}); choose another -o or add --overwrite")
        self._opened, self._resume = False, resume
        if resume:
            self._remove_temporary_files()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def open(self, config: dict[str, Any]) -> None:
        """Remove an earlier run's files unless it is resumed, and write the configuration; later calls do nothing."""
        if self._opened:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES if not self._resume else ():
                (self.path / name).unlink(missing_ok=True)
            if not self._resume:
                shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
            self._remove_temporary_files()
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}; choose another -o") from error
        write_json(self.path / CONFIG, config)
        self._opened = True

    def _remove_temporary_files(self) -> None:
        """Remove temporary files of a process that was killed while it wrote."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def write_history(self, history: Sequence[dict[str, Any]]) -> None:
        """Write one JSON line an epoch; the whole file is replaced, so a reader never sees half a line."""
        with open_atomic(self.path / METRICS, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in history)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write indented JSON; an interruption leaves the old file or none."""
    with open_atomic(path, "w") as file:
        file.write(json.dumps(values, indent=2) + "\n")


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        folder: where it lies.
        config: what `config.json` holds, the fields of `TrainConfig`.
        history: one dictionary an epoch, the lines of `metrics.jsonl`.
        summary: what `summary.json` holds; None for a run that was interrupted.
    """

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any] | None

    @property
    def best(self) -> Metrics:
        """Metrics of the best epoch on the validation split.

        Raises:
            CheckpointError: the run was interrupted and its checkpoint cannot be read.
        """
        if self.summary is not None:
            return Metrics.from_json(self.summary["metrics"])
        from training.runs import checkpoint

        return Metrics.from_json(checkpoint.load(self.folder).metrics)

    def describe(self) -> str:
        """Return the result in one line and the folder in another."""
        best = self.best
        low, high = best.accuracy_interval
        auc = "-" if best.auc is None else f"{best.auc:.4f}"
        if self.summary is None:
            return f"{self.config['model']}, interrupted after {len(self.history)} epochs\n{self.folder}"
        summary = self.summary
        return (
            f"{summary['model']} on {summary['data']['name']} ({summary['data']['protocol']} protocol), best epoch "
            f"{summary['metrics']['epoch']} of {summary['epochs']}: validation accuracy {best.accuracy:.4f} "
            f"(95 % interval {low:.4f} to {high:.4f}), macro F1 {best.f1:.4f}, AUC {auc}\n{self.folder}"
        )


def open_run(path: str | Path) -> Run:
    """Read a run folder.

    Args:
        path: a folder that `xtrain` wrote; the run may be unfinished.

    Raises:
        CheckpointError: the folder holds no run, or its files are damaged.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: holds no {CONFIG}; name a run folder that xtrain wrote")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines() if (folder / METRICS).is_file() else []
        history = [json.loads(line) for line in lines]
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8")) if (folder / SUMMARY).is_file() else None
        if not isinstance(config, dict) or not all(isinstance(entry, dict) for entry in history):
            raise ValueError("another structure")
        if summary is not None:
            Metrics.from_json(summary["metrics"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: its files are damaged ({error}); train again or name another run") from error
    return Run(folder, config, history, summary)
