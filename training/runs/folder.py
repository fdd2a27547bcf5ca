"""The run folder: what a training run leaves behind, consistent after every epoch, and reading it again.

Nothing here loads torch, except `Run.best` of a run that has no summary.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import CheckpointError, OutputError
from xtrain.files import open_atomic
from xtrain.metrics import Metrics
from xtrain.signals import deferred

CONFIG, METRICS, BEST, LAST, SUMMARY = "config.json", "metrics.jsonl", "best.pt", "last.pt", "summary.json"
CURVES, CONFUSION, CLASSES = "curves.png", "confusion.png", "classes.png"
TENSORBOARD = "tensorboard"  # a folder
TRACE = "trace.json"  # of --profile
LOGGED = "loggers.json"  # what the run is called where --log logs it
LOCK, STAGING = ".lock", ".new"
FILES = (CONFIG, METRICS, BEST, LAST, SUMMARY, CURVES, CONFUSION, CLASSES)


class RunFolder:
    """Reserves a folder for a run and writes its epochs.

    An earlier run in the same folder stays as it was until the first epoch of the new one is written whole: a run that
    fails on its input or on a full disk, or is interrupted before it has anything to keep, changes nothing.
    """

    def __init__(self, path: Path, overwrite: bool = False, resume: bool = False) -> None:
        """Check the folder without changing it; with `resume` it must hold the run to continue.

        Raises:
            OutputError: the folder holds a run already and `overwrite` is off, or other files, or is none.
        """
        self.path = path
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, not a folder; choose another -o")
        try:
            names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")] if path.exists() else []
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}; choose another -o") from error
        taken = [name for name in FILES if name in names]
        if taken and not overwrite and not resume:
            raise OutputError(f"{path}: holds a run already ({taken[0]}); choose another -o or add --overwrite")
        if names and not taken:
            raise OutputError(f"{path}: holds other files ({sorted(names)[0]}); name a new folder with -o")
        self._resume, self._begun, self._made, self._lock = resume, False, False, -1
        self._seen = self._times()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _times(self) -> dict[str, int]:
        """Return when each of the run's files was written."""
        paths = [self.path / name for name in FILES]
        return {path.name: path.stat().st_mtime_ns for path in paths if path.exists()}

    @contextmanager
    def reserved(self, needed_bytes: int = 0) -> Iterator[None]:
        """Keep other processes out of the folder, which is made, and left as it was if no epoch was written.

        Args:
            needed_bytes: of the checkpoints.

        Raises:
            OutputError: another process is training into it, or it cannot be written, or the disk is too full.
        """
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path)
            for path in (path for name in (*FILES, TRACE, LOGGED) for path in self.path.glob(f".{name}.*.tmp")):
                path.unlink(missing_ok=True)  # of a process that was killed while it wrote
            shutil.rmtree(self.path / STAGING, ignore_errors=True)
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}; choose another -o") from error
        try:
            if self._times() != self._seen:  # while this one loaded its data
                raise OutputError(f"{self.path}: another training wrote into it meanwhile; look at it and start again")
            if free < needed_bytes:
                raise OutputError(
                    f"{self.path}: its checkpoints need {needed_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; "
                    "free some space or choose another -o"
                )
            yield
        finally:
            (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            if self._made and not any(self.path.iterdir()):
                self.path.rmdir()

    @contextmanager
    def epoch(self, config: dict[str, Any]) -> Iterator[Path]:
        """Yield the folder in which to write an epoch's files.

        Those of the first epoch are written beside an earlier run's, with the configuration, and take their place when
        all are whole; `config` is what `config.json` is to hold.
        """
        if self._begun:
            yield self.path
            return
        staging = self.path if self._resume else self.path / STAGING
        try:
            staging.mkdir(exist_ok=True)
            write_json(staging / CONFIG, config)
            yield staging
            if not self._resume:
                with deferred():  # a Ctrl-C between two of the renames would lose both runs
                    self._replace_earlier_run(staging)
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}; choose another -o") from error
        finally:
            if not self._resume:
                shutil.rmtree(staging, ignore_errors=True)
        self._begun = True

    def _replace_earlier_run(self, staging: Path) -> None:
        # Of those that are not replaced the summary goes before the checkpoints that it is of.
        for name in (SUMMARY, *FILES, TRACE, LOGGED):
            if not (staging / name).exists():
                (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        for path in staging.iterdir():
            os.replace(path, self.path / path.name)


def lock_folder(folder: Path) -> int:
    """Lock a folder for this process and return the open lock file; the system frees it should the process die.

    Raises:
        OutputError: another process holds it.
        OSError: the folder cannot be written.
    """
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform == "win32":  # has no flock; two trainings into one folder are then not noticed
            return descriptor
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"{folder}: another training writes into it; wait for it or choose another -o") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                return descriptor
        os.close(descriptor)  # its holder removed it in between


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write one JSON line an epoch; the whole file is replaced, so a reader never sees half a line."""
    with open_atomic(folder / METRICS, "w") as file:
        file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in history)


def free_name(path: Path) -> Path:
    """Return the path, or with the first of -2, -3, … that is free where it holds something."""
    taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(other for other in numbered if not other.exists()) if taken else path


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write indented JSON; an interruption leaves the old file or none."""
    with open_atomic(path, "w") as file:
        file.write(json.dumps(values, indent=2, allow_nan=False) + "\n")


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
