"""The report of a finished run: `summary.json` and three pictures."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.runs import folder
from training.runs.checkpoint import Checkpoint
from training.runs.folder import RunFolder
from training.runs.fonts import drawable, drawable_names, families
from training.runs.history import Outcome
from xtrain.files import open_atomic

DRAWING = threading.Lock()  # matplotlib is not safe for threads, and a logger draws in its own


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
    with DRAWING:
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
    """Draw loss, accuracy and learning rate by epoch, the best epoch marked."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _plot(loss, history, "train_loss", "C0", "training")
    _plot(loss, history, "val_loss", "C1", "validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    _plot(accuracy, history, "train_accuracy", "C0", "training, augmented")
    _plot(accuracy, history, "val_accuracy", "C1", "validation")
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    _plot(rate, history, "lr", "C2", "at the start of the epoch")
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    for axes in (loss, accuracy, rate):
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best epoch ({best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(drawable(title), family=families([title]))
    _write(path, figure)


def _plot(axes: Axes, history: Sequence[dict[str, Any]], key: str, color: str, label: str) -> None:
    """Draw a figure of every epoch that has it: the training accuracy is missing in epochs of older versions."""
    points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), ".-", color=color, label=label)


def plot_confusion(confusion: np.ndarray[Any, Any], classes: Sequence[str], title: str) -> Figure:
    """Return a figure with the counts in every cell, coloured by the share of the true class."""
    side = 3.5 + 0.6 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks, names, fonts = range(len(classes)), drawable_names(classes), families([*classes, title])
    axes.set_xticks(ticks, names, rotation=45, ha="right", family=fonts)
    axes.set_yticks(ticks, names, family=fonts)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(drawable(title), family=fonts)
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
    axes.set_xticks(places, drawable_names(classes), rotation=30, ha="right", family=families(classes))
    axes.set(ylabel="rows", title="class distribution before and after balancing")
    axes.legend()
    _write(path, figure)


def _write(path: Path, figure: Figure) -> None:
    with open_atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
