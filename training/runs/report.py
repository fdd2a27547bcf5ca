"""The report of a finished run: `summary.json` and three pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.runs import folder
from training.runs.checkpoint import Checkpoint
from training.runs.folder import RunFolder
from training.runs.history import Outcome
from xtrain.files import open_atomic


def summarise(best: Checkpoint, counts: Sequence[int], outcome: Outcome) -> dict[str, Any]:
    """Return the content of `summary.json`; the metrics are those of the best epoch on the validation split.

    Args:
        best: the checkpoint of the best epoch.
        counts: training rows of each class.
        outcome: of the training loop.

    `class_distribution.drawn` is the expected number of rows of each class an epoch trains on: the same as
    before without balancing, equal for all classes with it. `seconds` is the wall time of all epochs with their
    validation, `train_seconds` the part of it that trained, which `images_per_second` is of.

    Returns:
        Plain JSON values.
    """
    config, classes = best.config, best.spec.classes
    even = sum(counts) / len(classes)
    return {
        "model": config.model,
        "seed": config.seed,
        "metrics": {
            "protocol": best.data.protocol,
            "split": "val",
            "epoch": outcome.best_epoch,
            **outcome.best.as_json(),
        },
        "epochs": len(outcome.history),
        "stopped_early": outcome.stopped_early,
        "seconds": round(outcome.seconds, 3),
        "train_seconds": round(outcome.train_seconds, 3),
        "images_per_second": round(outcome.images_per_second, 1),
        "classes": list(classes),
        "class_distribution": {
            "rows": list(counts),
            "drawn": [even] * len(classes) if config.balance else list(counts),
        },
        "data": best.data.as_json(),
        "digest": best.digest,
        "environment": best.environment,
    }


def write_report(run: RunFolder, summary: dict[str, Any], history: Sequence[dict[str, Any]]) -> None:
    """Write `curves.png`, `confusion.png`, `classes.png`, and last `summary.json`, which marks the run complete."""
    where = f"{summary['data']['name']}, {summary['metrics']['protocol']} protocol, validation"
    draw_curves(run / folder.CURVES, history, summary["metrics"]["epoch"], f"{summary['model']} on {where}")
    confusion = plot_confusion(
        np.asarray(summary["metrics"]["confusion"]),
        summary["classes"],
        f"{summary['model']} on {where}\naccuracy {summary['metrics']['accuracy']:.4f}",
    )
    _write(run / folder.CONFUSION, confusion)
    draw_classes(run / folder.CLASSES, summary["class_distribution"], summary["classes"])
    folder.write_json(run / folder.SUMMARY, summary)


def draw_curves(path: Path, history: Sequence[dict[str, Any]], best_epoch: int, title: str) -> None:
    """Draw loss and accuracy by epoch, the best epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    loss.plot(epochs, [entry["train_loss"] for entry in history], ".-", label="training")
    loss.plot(epochs, [entry["val_loss"] for entry in history], ".-", label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    accuracy.plot(epochs, [entry["val_accuracy"] for entry in history], ".-", color="C1", label="validation")
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best epoch ({best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(title)
    _write(path, figure)


def plot_confusion(confusion: np.ndarray[Any, Any], classes: Sequence[str], title: str) -> Figure:
    """Return a figure with the counts in every cell, coloured by the share of the true class."""
    side = 3.5 + 0.6 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, column in np.argwhere(confusion > 0):
        axes.text(
            column,
            row,
            f"{confusion[row, column]}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share[row, column] > 0.5 else "black",
        )
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def draw_classes(path: Path, distribution: dict[str, Sequence[float]], classes: Sequence[str]) -> None:
    """Draw the training rows of each class in the file, and those drawn an epoch."""
    figure = Figure(figsize=(3 + 0.7 * len(classes), 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.bar(places - 0.2, distribution["rows"], 0.4, label="in the training split")
    axes.bar(places + 0.2, distribution["drawn"], 0.4, label="drawn an epoch (expected)")
    axes.set_xticks(places, classes, rotation=30, ha="right")
    axes.set(ylabel="rows", title="class distribution before and after balancing")
    axes.legend()
    _write(path, figure)


def _write(path: Path, figure: Figure) -> None:
    with open_atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
