"""Progress of training: a bar with the remaining time on a terminal, a line an epoch elsewhere."""

import time
from typing import Any, Protocol, TextIO

from xtrain.metrics import Metrics

CLEAR_LINE = "\r\x1b[K"


class Progress(Protocol):
    """What the trainer calls while it trains."""

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Begin training of at most `epochs` of `steps` batches, of which a resumed run has `done` epochs."""

    def step(self) -> None:
        """Count one batch."""

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """Show one epoch, validated and written; `entry` is its line of metrics.jsonl."""

    def close(self) -> None:
        """End."""


def warn(stream: TextIO, text: str) -> None:
    """Write one line of warning; on a terminal over the bar, which draws itself again."""
    stream.write(f"{CLEAR_LINE if stream.isatty() else ''}warning: {' '.join(text.split())}\n")
    stream.flush()


def format_epoch(entry: dict[str, Any], epochs: int, best: bool) -> str:
    """Return one epoch on one line."""
    return (
        f"epoch {entry['epoch']}/{epochs}  loss {entry['train_loss']:.4f}  val loss {entry['val_loss']:.4f}  "
        f"val accuracy {entry['val_accuracy']:.4f}{' *' if best else '  '}  lr {entry['lr']:.2g}  "
        f"{entry['seconds']:.1f} s"
    )


class LineProgress:
    """Writes a line an epoch, and one every minute within epochs that take longer."""

    def __init__(self, stream: TextIO, every: float = 60.0) -> None:
        """Write to `stream`; within an epoch `every` so many seconds."""
        self.stream, self.every = stream, every
        self.epochs = self.steps = self.epoch_number = self.step_number = 0
        self.began = self.written = time.monotonic()

    def start(self, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self.epochs, self.steps, self.epoch_number = epochs, steps, done + 1
        self.began = self.written = time.monotonic()

    def step(self) -> None:
        """See `Progress`."""
        self.step_number += 1
        now = time.monotonic()
        if now - self.written >= self.every:
            remaining = (now - self.began) / self.step_number * (self.steps - self.step_number)
            self._write(
                f"epoch {self.epoch_number}/{self.epochs}  batch {self.step_number}/{self.steps}  "
                f"{remaining:.0f} s to the end of its training"
            )

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """See `Progress`."""
        self._write(format_epoch(entry, self.epochs, best))
        self.epoch_number, self.step_number, self.began = entry["epoch"] + 1, 0, self.written

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()
        self.written = time.monotonic()

    def close(self) -> None:
        """See `Progress`."""


class BarProgress:
    """Draws a bar over all epochs with the remaining time, and a line above it for every epoch."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm

        self.bar: tqdm[Any] = tqdm(file=stream, unit="batch", leave=False, dynamic_ncols=True)
        self.epochs = 0

    def start(self, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self.epochs = epochs
        self.bar.reset(total=epochs * steps)
        self.bar.update(done * steps)

    def step(self) -> None:
        """See `Progress`."""
        self.bar.update()

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """See `Progress`."""
        self.bar.write(format_epoch(entry, self.epochs, best), file=self.bar.fp)

    def close(self) -> None:
        """See `Progress`."""
        self.bar.close()


def choose_progress(stream: TextIO) -> Progress:
    """Return a bar if `stream` is a terminal, else lines."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
