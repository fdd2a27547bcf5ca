"""`--profile`: a Chrome trace of a few training steps, by torch's profiler, as a watcher of the trainer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from xtrain.files import replacing
from xtrain.metrics import Metrics

WARM_UP, STEPS = 5, 20  # the first steps allocate, choose algorithms and compile


class Profile:
    """Records `STEPS` steps of the first epoch that is trained; any failure is a warning and ends it.

    The trace is written when that epoch is, like everything else in the run folder: until then an earlier run in the
    same folder is as it was.
    """

    def __init__(self, path: Path, device: torch.device, batches: int, warn: Callable[[str], None]) -> None:
        """Record into `path` from a first epoch of `batches` on `device`; `warn` gets the text of a failure.

        An epoch shorter than both has less to warm up, then fewer steps to record.
        """
        self.path, self.device, self.warn = path, device, warn
        self.begin = max(0, min(WARM_UP, batches - STEPS))
        self.end = min(self.begin + STEPS, batches)
        self.number = 0
        self.profiler: Any = None
        self.done = False

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Begin at once where no step can be spared to warm up."""
        self._change()

    def step(self) -> None:
        """Count a step; begin or end with it."""
        self.number += 1
        self._change()

    def epoch(self, entry: dict[str, Any], metrics: Metrics, best: bool) -> None:
        """Write the trace of the epoch, once."""
        if self.profiler is not None and not self.done:
            self.done = True
            self._try(self._write)
            self.profiler = None

    def close(self) -> None:
        """End a recording that an error or an interruption has cut off; nothing is written."""
        if self.profiler is not None and not self.done and self.number < self.end:
            self._try(self.profiler.stop)
        self.done, self.profiler = True, None

    def _change(self) -> None:
        if not self.done and self.number == self.begin and self.begin < self.end:
            self._try(self._begin)
        elif not self.done and self.profiler is not None and self.number == self.end:
            self._try(self.profiler.stop)

    def _begin(self) -> None:
        # Its C++ part writes lines of its own onto stderr, an error among them where no GPU is.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(activities=activities)
        self.profiler.start()

    def _write(self) -> None:
        with replacing(self.path) as temporary:
            self.profiler.export_chrome_trace(str(temporary))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # training goes on, whatever it is
            self.done, self.profiler = True, None
            self.warn(f"--profile: no trace ({error}); training goes on")
