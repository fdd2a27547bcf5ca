"""Keeps loggers from touching training: each has a thread and a queue, and is dropped with a warning when it fails."""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from training.runs import folder
from training.runs.loggers import FIGURES, LoggedRun, make_logger
from xtrain.metrics import Metrics

WAIT_SECONDS, INTERRUPTED_SECONDS = 30.0, 5.0  # for what is still to be logged when training has ended
Task = Callable[[], None]


class Logs:
    """Tells every logger of a run's epochs; a watcher of the trainer.

    Training never waits for one: a call is put into the logger's queue. A logger is opened after the first epoch is
    written, for a run that ends before that leaves nothing behind.
    """

    def __init__(self, names: tuple[str, ...], run: LoggedRun, warn: Callable[[str], None]) -> None:
        """Log `run` to the loggers of these names; `warn` gets one line for one that fails."""
        self.run, self._lock = run, threading.Lock()
        self.workers = [_Worker(name, self._opened, run, warn) for name in names]

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Nothing is logged before an epoch is complete."""

    def step(self) -> None:
        """Batches are not logged."""

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """Queue one epoch."""
        figures = {name: float(entry[key]) for key, name in FIGURES.items() if entry.get(key) is not None}
        confusion = np.asarray(metrics.confusion) if best else None
        for worker in self.workers:
            worker.epoch(figures, entry["epoch"], confusion)

    def close(self) -> None:
        """The report is still to come; see `finish`."""

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """End all; `summary` is the content of summary.json, None for a run that failed or was interrupted.

        Waits for all of them together at most `WAIT_SECONDS`; one that hangs is left behind with a warning.
        """
        figures = None
        if summary is not None:
            best = {name: summary["metrics"][name] for name in ("accuracy", "f1", "auc", "loss", "epoch")}
            figures = {f"best/{name}": float(value) for name, value in best.items() if value is not None}
        seconds = INTERRUPTED_SECONDS if figures is None else WAIT_SECONDS
        for worker in self.workers:
            worker.finish(figures)
        end = time.monotonic() + seconds
        for worker in self.workers:
            worker.join(max(0.0, end - time.monotonic()), seconds)

    def _opened(self, name: str, identity: str) -> None:
        """Write down what a resumed run goes on with."""
        with self._lock:
            folder.write_json(self.run.folder / folder.LOGGED, {**read_identities(self.run), name: identity})


def read_identities(run: LoggedRun) -> dict[str, str]:
    """Return by logger what a run is called in it; empty for a new run, or a file that is damaged."""
    try:
        values = json.loads((run.folder / folder.LOGGED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}


class _Worker:
    """One logger and the thread that alone calls it; a daemon, so a logger that hangs does not keep the process."""

    def __init__(
        self, name: str, opened: Callable[[str, str], None], run: LoggedRun, warn: Callable[[str], None]
    ) -> None:
        self.name, self.opened, self.run, self.warn = name, opened, run, warn
        self.logger = make_logger(name)
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.abandoned = False

    def epoch(self, figures: Mapping[str, float], step: int, confusion: Any) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name=f"log-{self.name}", daemon=True)
            self.thread.start()
        self.tasks.put(lambda: self.logger.epoch(figures, step, confusion))

    def finish(self, summary: Mapping[str, float] | None) -> None:
        self.tasks.put(lambda: self.logger.finish(summary))
        self.tasks.put(None)

    def join(self, seconds: float, told: float) -> None:
        if self.thread is None:
            return
        self.thread.join(seconds)
        if self.thread.is_alive():
            self.abandoned = True
            self.warn(f"--log {self.name}: not finished after {told:g} s; its last figures may be missing")

    def _open(self) -> None:
        identity = self.logger.open(self.run, read_identities(self.run).get(self.name))
        if identity is not None:
            self.opened(self.name, identity)

    def _work(self) -> None:
        try:
            self._open()
            while (task := self.tasks.get()) is not None:
                task()
        except BaseException as error:  # a library's sys.exit would end the thread without a word
            if self.abandoned:  # said already
                return
            reason = f"{type(error).__name__}: {error}".strip(": ")
            self.warn(f"--log {self.name} failed ({reason}); training goes on without it")
