"""How fast a device trains: images a second, the share of its measured matrix rate, the cost of `--deterministic`."""

import statistics
import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_runs import SKIPPED, Result, Run, Setting, cannot_compile, computing, judged, missing_package
from training.loop.device import AUTOCAST, choose_precision
from training.models.classifier import Classifier, ModelSpec


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the measured matrix FLOP/s of the device, on 8192 x 8192 matrices, 1024 x 1024 on a CPU."""
    side, times = (8192, 20) if device.type == "cuda" else (1024, 3)
    a = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        a @ a
    _wait(device)
    return times * 2 * side**3 / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_flops(spec: ModelSpec) -> float:
    """Return the FLOP of one image forward and backward, counted on shapes."""
    with torch.device("meta"):
        classifier = Classifier(spec).train()
        size = classifier.preprocess.output_size
        pixels = torch.empty(2, spec.shape[2], size, size)
    with FlopCounterMode(display=False) as counter:
        classifier.network(pixels).sum().backward()
    return float(counter.get_total_flops()) / 2


def images_a_second(run: Run, device: torch.device, seconds: float) -> float:
    """Return the median over epochs of the trainer's own, after one that warms up, until the seconds are over."""
    with computing(device, run.config.deterministic):
        trainer, rates, began = run.trainer(device), list[float](), 0.0
        for epoch in range(1, 100):
            start = time.perf_counter()
            trainer.train_epoch(epoch)  # reads the loss at its end, so the device is done
            if epoch == 1:
                began = time.perf_counter()
                continue
            rates.append(run.batch * run.updates / (time.perf_counter() - start))
            if len(rates) > 1 and time.perf_counter() - began > seconds:
                break
    return statistics.median(rates)


def rate_run(setting: Setting, model: str, size: int, batch: int, compiled: bool = False) -> Run:
    """Return the run whose rate is measured, in the precision that `auto` gives."""
    precision = choose_precision("auto", setting.device)
    settings = {"precision": precision, "augment": "paper-intended", "compile": compiled}
    return Run(model, size, batch, 30 if setting.cuda else 2, settings)


def rate(setting: Setting, model: str, size: int, batch: int, compiled: bool) -> Result:
    """Measure the images a second of a model, and their share of the matrix rate in the same precision."""
    reason = missing_package(model) or (cannot_compile(setting.device.type) if compiled else None)
    if reason:
        return Result(SKIPPED, reason)
    run = rate_run(setting, model, size, batch, compiled)
    measured = images_a_second(run, setting.device, 1.0 if setting.cuda else 0.5)
    dtype = AUTOCAST[run.config.precision] or torch.float32
    share = measured * training_flops(run.spec) / matrix_rate(setting.device, dtype)
    return judged(None, images_a_second=measured, share_of_matrix_rate=share, precision=run.config.precision)


def deterministic_cost(setting: Setting, model: str, size: int, batch: int) -> Result:
    """Measure the images a second with `--deterministic` as a share of those without, in turn."""
    reason = missing_package(model)
    if reason:
        return Result(SKIPPED, reason)
    run = rate_run(setting, model, size, batch)
    strict = Run(model, size, batch, run.updates, {**run.settings, "deterministic": True})
    pairs = [
        [images_a_second(side, setting.device, 0.5) for side in (run, strict)] for _ in range(3 if setting.cuda else 1)
    ]
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    return judged(None, ratio=ratio, images_a_second=statistics.median(fast for fast, _ in pairs))
