"""A bar with the time left on a real terminal, a line an epoch elsewhere."""

import fcntl
import io
import os
import select
import struct
import termios
from typing import Any

from training.runs.progress import BarProgress, LineProgress, choose_progress
from xtrain.metrics import evaluate

ENTRY: dict[str, Any] = {
    "epoch": 1, "train_loss": 1.0, "val_loss": 0.5, "val_accuracy": 0.75, "lr": 0.001, "seconds": 2.0
}  # fmt: skip


def figures() -> Any:
    import numpy as np

    return evaluate(np.array([0, 1]), np.eye(2) * 0.8 + 0.1)


def read(leader: int, last: str) -> str:
    """Read a terminal until some words have come, at most five seconds; the kernel hands its text on in parts."""
    shown = b""
    while last.encode() not in shown and select.select([leader], [], [], 5)[0]:
        shown += os.read(leader, 100_000)
    return shown.decode(errors="replace")


def test_a_terminal_gets_a_bar() -> None:
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(follower, "w") as terminal:
        progress = choose_progress(terminal)
        assert isinstance(progress, BarProgress)
        progress.bar.mininterval = 0
        progress.start(2, 4, 0)
        for _ in range(4):
            progress.step()
        progress.epoch(ENTRY, figures(), True)
        progress.close()
        terminal.flush()
        shown = read(leader, "epoch 1/2")
    os.close(leader)
    assert "4/8 [" in shown and "50%" in shown and "<" in shown, shown
    assert "epoch 1/2  loss 1.0000  val loss 0.5000  val accuracy 0.7500 *" in shown


def test_a_resumed_bar_starts_where_it_was() -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        progress = BarProgress(terminal)
        progress.start(4, 10, 2)
        assert (progress.bar.n, progress.bar.total) == (20, 40)
        progress.close()
    os.close(leader)


def test_a_file_gets_a_line_an_epoch() -> None:
    stream = io.StringIO()
    progress = choose_progress(stream)
    assert isinstance(progress, LineProgress)
    progress.start(1, 4, 0)
    progress.step()
    progress.epoch(ENTRY, figures(), False)
    progress.close()
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().startswith("epoch 1/1  loss 1.0000")
