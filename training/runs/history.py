"""What the training loop tells: one record an epoch, and the outcome of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtrain.metrics import Metrics


@dataclass(frozen=True)
class Outcome:
    """What is known at the end of training.

    `seconds` are the wall time of all epochs, also those before a resumption; `train_seconds` is it without
    validation; `images_per_second` is of training alone.
    """

    best_epoch: int
    best: Metrics
    history: list[dict[str, Any]]
    stopped_early: bool
    seconds: float
    train_seconds: float
    images_per_second: float


def epoch_record(
    epoch: int, lr: float, training: tuple[float, float], metrics: Metrics, rows: int, seconds: tuple[float, float]
) -> dict[str, Any]:
    """Return the line of `metrics.jsonl` for one epoch.

    Args:
        epoch: from 1.
        lr: learning rate at its start.
        training: mean cross-entropy and accuracy over the rows trained on, as they were augmented.
        metrics: of the validation split.
        rows: trained on, over all processes.
        seconds: of training, and of the whole epoch.
    """
    (train_loss, train_accuracy), (train_seconds, whole) = training, seconds
    return {
        "epoch": epoch,
        "lr": lr,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "val_loss": metrics.loss,
        "val_accuracy": metrics.accuracy,
        "val_f1": metrics.f1,
        "val_auc": metrics.auc,
        "train_seconds": round(train_seconds, 3),
        "seconds": round(whole, 3),
        "images_per_second": round(rows / train_seconds, 1),
    }


def best_epoch(history: Sequence[Mapping[str, Any]], monitor: str) -> int:
    """Return the number of the epoch whose `monitor` (accuracy, loss, f1 or auc) was the best, by its lines."""
    sign = -1 if monitor == "loss" else 1
    best = max(history, key=lambda entry: (sign * entry[f"val_{monitor}"], -entry["val_loss"]))
    return int(best["epoch"])
