"""What the checks of `benchmarks.gpu` share: where they run, what each says, and small runs on synthetic images.

Everything here needs torch and numpy only.
"""

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch

from training.config import TrainConfig, resolve
from training.loop.device import seed_everything, set_up
from training.loop.distributed import Process
from training.loop.trainer import Splits, Trainer
from training.models.classifier import Classifier, ModelSpec
from training.models.registry import find
from training.runs.recorder import Recorder
from xtrain.data.datasets import Split

Figures = Mapping[str, float | str]
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
CLASSES = tuple("abcdefghi")  # nine, as PathMNIST has
NATIVE = 28
SEED = 22


@dataclass(frozen=True)
class Result:
    """What one check says of one case: `ok`, `failed` or `skipped` with the reason, and what it measured."""

    status: str
    reason: str = ""
    figures: Figures = field(default_factory=dict)

    def text(self) -> str:
        """Return reason and figures in one line."""
        shown = [
            f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in self.figures.items()
        ]
        return "; ".join(part for part in (self.reason, ", ".join(shown)) if part) or "-"


def judged(problem: str | None, **figures: float | str) -> Result:
    """Return `failed` where there is a problem, else `ok`."""
    return Result(FAILED if problem else OK, problem or "", figures)


@dataclass(frozen=True)
class Setting:
    """Where the checks run and how much of them.

    Attributes:
        device: the card, or the CPU.
        models: architectures to try.
        quick: whether a few of the models do.
        named: whether the user named the models, so that none is left out for the time it takes.
    """

    device: torch.device
    models: tuple[str, ...]
    quick: bool = False
    named: bool = False

    @property
    def cuda(self) -> bool:
        """Whether there is a card."""
        return self.device.type == "cuda"

    def run(self, model: str, **settings: Any) -> "Run":
        """Return a small run: few images, at the smallest size from 28 pixels that the model takes."""
        return Run(model, max(NATIVE, find(model).min_size), 32 if self.cuda else 8, settings=settings)


@dataclass(frozen=True)
class Run:
    """What is trained: a model at an image size, in batches, so many updates an epoch, settings of `TrainConfig`."""

    model: str
    size: int
    batch: int
    updates: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> TrainConfig:
        """The configuration, in float32 unless the settings say otherwise."""
        chosen = {"precision": "fp32", "pretrained": False, "seed": SEED, "patience": 100, **self.settings}
        return resolve(self.model, "synthetic.npz", image_size=self.size, batch_size=self.batch, **chosen)

    @property
    def spec(self) -> ModelSpec:
        """The network and what it takes: images of 28 pixels, as the data sets have, resized on the device."""
        shape, scale = (NATIVE, NATIVE, 3), (0.5,) * 3
        return ModelSpec(self.model, self.config.switches, CLASSES, shape, self.size, None, scale, scale)

    def splits(self) -> Splits:
        """Return as many training rows as the updates need, and one batch to validate on."""
        return Splits(synthetic(self.batch * self.updates * self.config.accumulate), synthetic(self.batch))

    def trainer(self, device: torch.device, recorder: Recorder | None = None) -> Trainer:
        """Return a trainer with fresh weights, the same at every call."""
        seed_everything(SEED)
        return Trainer(self.config, Classifier(self.spec), self.splits(), Process(device), recorder)


def synthetic(rows: int, size: int = NATIVE) -> Split:
    """Return seeded noise with smooth colours, and the labels of nine classes in turn."""
    generator = np.random.default_rng(SEED)
    base = generator.integers(0, 200, (rows, 1, 1, 3))
    images = (base + generator.integers(0, 56, (rows, size, size, 3))).astype(np.uint8)
    return Split(images, np.arange(rows, dtype=np.int64) % len(CLASSES))


@contextmanager
def computing(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Compute as a training run does, and leave torch's switches as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    algorithms = torch.are_deterministic_algorithms_enabled()
    set_up(device, deterministic)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.use_deterministic_algorithms(algorithms)
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


@cache
def missing_package(model: str) -> str | None:
    """Return why a model cannot be built here, None where it can."""
    try:
        with torch.device("meta"):
            Classifier(Run(model, max(NATIVE, find(model).min_size), 2).spec)
    except ModuleNotFoundError as error:
        return f"needs the package {error.name}, which is not installed"
    return None


@cache
def cannot_compile(device_type: str) -> str | None:
    """Return why torch.compile cannot work here, None where it should: it builds C++ or a launcher for Triton."""
    names = ("g++", "clang++", "c++") if device_type == "cpu" else ("gcc", "clang", "cc")
    if sys.platform == "win32":
        return None
    if not any(which(name) for name in names):
        return f"torch.compile needs a compiler, one of {', '.join(names)}"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "torch.compile needs Python.h, the headers of this Python"
    if device_type == "cuda" and find_spec("triton") is None:
        return "torch.compile needs the package triton, which is not installed"
    return None
