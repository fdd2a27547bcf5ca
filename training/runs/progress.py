"""Progress of training: a bar with the remaining time on a terminal, a line an epoch elsewhere."""

from typing import Any, Protocol, TextIO

from xtrain.metrics import Metrics


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


def format_epoch(entry: dict[str, Any], epochs: int, best: bool) -> str:
    """Return one epoch on one line."""
    return (
        f"epoch {entry['epoch']}/{epochs}  loss {entry['train_loss']:.4f}  val loss {entry['val_loss']:.4f}  "
        f"val accuracy {entry['val_accuracy']:.4f}{' *' if best else '  '}  lr {entry['lr']:.2g}  "
        f"{entry['seconds']:.1f} s"
    )


class LineProgress:
    """Writes a line an epoch."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.epochs = stream, 0

    def start(self, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self.epochs = epochs

    def step(self) -> None:
        """See `Progress`."""

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """See `Progress`."""
        self.stream.write(format_epoch(entry, self.epochs, best) + "\n")
        self.stream.flush()

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
