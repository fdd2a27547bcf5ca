"""Where a run may be logged besides its folder: one small protocol, and what speaks it.

Flows in: names, settings and the figures of every epoch. Flows out: calls of a package that is imported only when it
is asked for. Nothing here guards against its failures; `logs` does.
"""

import importlib
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.runs import folder
from xtrain.errors import ConfigError

PROJECT = "xtrain"  # where the environment names none
# Keys of metrics.jsonl and what they are called in every logger.
FIGURES = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "train_accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "val_f1": "f1/validation",
    "val_auc": "auc/validation",
    "lr": "learning rate",
    "images_per_second": "images per second",
}


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run: its name, its settings without nesting, its folder and its classes."""

    name: str
    settings: Mapping[str, Any]
    folder: Path
    classes: tuple[str, ...]


class Logger(Protocol):
    """What is called for a run, all of it in one thread that is not the main one; any exception ends it."""

    def open(self, run: LoggedRun, identity: str | None) -> str | None:
        """Begin, or go on with the run that an earlier call returned the `identity` of; return what to go on with."""

    def epoch(self, figures: Mapping[str, float], step: int, confusion: NDArray[np.int64] | None) -> None:
        """Log the figures of epoch `step`; `confusion` (C, C), rows are true classes, where it is the best so far."""

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """End; `summary` are the figures of the best epoch, None for a run that failed or was interrupted."""


class TensorBoard:
    """Events in `RUN/tensorboard`: the figures as scalars, the confusion matrix of every better epoch as an image."""

    def open(self, run: LoggedRun, identity: str | None) -> str | None:
        """See `Logger`; further events of a resumed run are a further file in the same folder."""
        from torch.utils.tensorboard import SummaryWriter

        self.classes = run.classes
        self.writer: Any = SummaryWriter(str(run.folder / folder.TENSORBOARD))
        return None

    def epoch(self, figures: Mapping[str, float], step: int, confusion: NDArray[np.int64] | None) -> None:
        """See `Logger`."""
        from training.runs.report import DRAWING, plot_confusion

        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        if confusion is not None:
            with DRAWING:
                figure = plot_confusion(confusion, self.classes, f"epoch {step}")
                self.writer.add_figure("confusion/validation", figure, step)
        self.writer.flush()

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """See `Logger`."""
        self.writer.close()


class Wandb:
    """Weights & Biases; its `WANDB_*` variables hold, its files lie in `RUN/wandb` where `WANDB_DIR` names no place."""

    def open(self, run: LoggedRun, identity: str | None) -> str | None:
        """See `Logger`."""
        identity = identity or uuid.uuid4().hex[:8]
        self.run: Any = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=identity,
            resume="allow",
            dir=None if os.environ.get("WANDB_DIR") else str(run.folder),
            config=dict(run.settings),
            settings={"console": "off"},  # what we print is not its to capture
        )
        return identity

    def epoch(self, figures: Mapping[str, float], step: int, confusion: NDArray[np.int64] | None) -> None:
        """See `Logger`."""
        self.run.log(dict(figures), step=step)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """See `Logger`."""
        self.run.summary.update(dict(summary or {}))
        self.run.finish(exit_code=0 if summary else 1)


class Trackio:
    """Trackio, a local dashboard; its `TRACKIO_*` variables hold."""

    def open(self, run: LoggedRun, identity: str | None) -> str | None:
        """See `Logger`; Trackio goes on by name, so the name is made unique."""
        name = identity or f"{run.name}-{uuid.uuid4().hex[:6]}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        trackio = importlib.import_module("trackio")
        resume = "allow" if identity else "never"
        self.run: Any = trackio.init(project=project, name=name, config=dict(run.settings), resume=resume, embed=False)
        return name

    def epoch(self, figures: Mapping[str, float], step: int, confusion: NDArray[np.int64] | None) -> None:
        """See `Logger`."""
        self.run.log(dict(figures), step=step)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """See `Logger`; it has no summary of a run, so that becomes one more record."""
        if summary:
            self.run.log(dict(summary))
        self.run.finish()


class Mlflow:
    """MLflow, at `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME`.

    By its client, because `mlflow.start_run` keeps the active run in the thread that called it.
    """

    def open(self, run: LoggedRun, identity: str | None) -> str | None:
        """See `Logger`; parameters of a run cannot change, so a resumed one keeps its first ones."""
        self.client: Any = importlib.import_module("mlflow").MlflowClient()
        if identity is not None:
            self.identity = identity
            self.client.update_run(identity, status="RUNNING")
            return identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        self.identity = str(self.client.create_run(number, run_name=run.name).info.run_id)
        for setting, value in run.settings.items():
            self.client.log_param(self.identity, setting, value)
        return self.identity

    def epoch(self, figures: Mapping[str, float], step: int, confusion: NDArray[np.int64] | None) -> None:
        """See `Logger`."""
        now = int(1000 * time.time())
        for name, value in figures.items():
            self.client.log_metric(self.identity, name, value, now, step)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """See `Logger`."""
        for name, value in (summary or {}).items():
            self.client.log_metric(self.identity, name, value)
        self.client.set_terminated(self.identity, "FINISHED" if summary else "KILLED")


_CLASSES: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow}


def make_logger(name: str) -> Logger:
    """Return the logger of a name of `config.LOGGERS`, not opened yet."""
    return _CLASSES[name]()


def check_packages(names: tuple[str, ...]) -> None:
    """Refuse loggers whose package is not installed; nothing is imported.

    Raises:
        ConfigError: with what installs it.
    """
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without an origin: a folder of that name, such as wandb's own files
            raise ConfigError(f"--log {name} needs the package {name}: pip install {name}")
