"""TensorBoard events of a run: the curves as scalars, the confusion matrix of every better epoch as an image."""

from pathlib import Path
from typing import Any

import numpy as np

from training.runs.report import plot_confusion
from xtrain.metrics import Metrics


class TensorBoard:
    """Writes events into a folder; a watcher of the trainer."""

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.folder, self.classes = folder, classes
        self.writer: Any = None

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Nothing is written before the first epoch is complete, as elsewhere in the run folder."""

    def step(self) -> None:
        """Batches are not recorded."""

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """Record one epoch."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder))
        names = {"train_loss": "loss/training", "val_loss": "loss/validation", "val_accuracy": "accuracy/validation"}
        names |= {"val_f1": "f1/validation", "val_auc": "auc/validation", "lr": "learning rate"}
        names |= {"train_accuracy": "accuracy/training", "images_per_second": "images per second"}
        for key, name in names.items():
            if entry[key] is not None:
                self.writer.add_scalar(name, entry[key], entry["epoch"])
        if best:
            figure = plot_confusion(np.asarray(metrics.confusion), self.classes, f"epoch {entry['epoch']}")
            self.writer.add_figure("confusion/validation", figure, entry["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
