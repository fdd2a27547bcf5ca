"""Checks and measures training on a GPU from a checkout; nothing but torch (2.9 or newer) and its numpy is needed.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only two-steps --models resnet18,xception --json gpu.json

Every check prints a line: ok, failed or skipped with its reason. One that fails does not stop the others; the command
then ends with 1. Without a card the same checks run on the CPU with fewer models and smaller batches, and what only a
card can show is skipped. The loss, the data and the models are the trainer's own; images are synthetic.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_checks as checks
from benchmarks import gpu_rates as rates
from benchmarks.gpu_runs import FAILED, OK, SKIPPED, Result, Setting
from benchmarks.results import Report, Table
from training.loop.device import choose_device
from training.models.registry import ARCHITECTURES, find
from training.policies import POLICIES
from xtrain.errors import XtrainError

OLDEST_TORCH = (2, 9)
CPU_MODELS = ("simplecnn", "alexnet-bn", "resnet18", "efficientnet-lite0")
QUICK_MODELS = ("simplecnn", "resnet18")
# The same blocks as resnet50, and minutes to compile.
NOT_COMPILED = ("resnet101", "resnet152")
# What the loop offers beside the defaults, each in a step that may not wait for the card.
STEPS: list[dict[str, Any]] = [
    *({"augment": name} for name in POLICIES),
    {"augment": "strong", "mix": "mixup", "loss": "focal", "class_weights": True},
    {"augment": "histology", "mix": "cutmix", "label_smoothing": 0.1},
    {"precision": "bf16", "ema": 0.99, "clip_grad": 1.0},
    {"precision": "fp16"},
    {"accumulate": 2},
    {"scheduler": "onecycle"},
    *({"optimizer": name} for name in ("adagrad", "adamw", "nadam", "rmsprop", "sgd")),
]


@dataclass(frozen=True)
class Case:
    """One call of a check."""

    check: str
    name: str
    call: Callable[[], Result]


def two_steps(setting: Setting) -> Iterator[Case]:
    """Every model in every mode but compiled."""
    for mode in [mode for mode in checks.MODES if mode != "compile"]:
        for model in setting.models:
            yield Case("two-steps", f"{model}, {mode}", partial(checks.two_steps, setting, model, mode))


def compiled(setting: Setting) -> Iterator[Case]:
    """Every model that does not take too long."""
    for model in setting.models:
        reason = not_compiled(setting, model)
        call = partial(checks.two_steps, setting, model, "compile")
        yield Case("compile", model, partial(Result, SKIPPED, reason) if reason else call)


def not_compiled(setting: Setting, model: str) -> str | None:
    """Return why compiling a model is left out, None where it is not; what the user names is never left out."""
    if setting.named:
        return None
    if model in NOT_COMPILED:
        return f"the blocks of resnet50, and minutes to compile; --models {model} tries it"
    if (setting.quick or not setting.cuda) and model != "simplecnn":
        return f"takes long to compile; --models {model} tries it"
    return None


def no_waits(setting: Setting) -> Iterator[Case]:
    """Each of the loop's features."""
    for settings in STEPS:
        name = ", ".join(f"{key} {value}" for key, value in settings.items())
        yield Case("no-waits", name, partial(checks.no_waits, setting, settings))


def digests(setting: Setting) -> Iterator[Case]:
    """Networks with dropout and with BatchNorm, and everything that a checkpoint holds besides weights."""
    settings = {"augment": "strong", "ema": 0.9, "mix": "cutmix", "clip_grad": 1.0}
    for model in [name for name in setting.models if setting.named or name in QUICK_MODELS]:
        yield Case("digests", model, partial(checks.digests, setting, model, {}))
        yield Case("digests", f"{model}, ema, cutmix, clip", partial(checks.digests, setting, model, settings))


def logits(setting: Setting) -> Iterator[Case]:
    """Every model."""
    return (Case("logits", model, partial(checks.logits, setting, model)) for model in setting.models)


def augmentation(setting: Setting) -> Iterator[Case]:
    """Every policy, and both mixtures."""
    chosen = [(name, "none") for name in POLICIES if name != "none"] + [("strong", "mixup"), ("strong", "cutmix")]
    for policy, mix in chosen:
        yield Case("augmentation", f"{policy}, mix {mix}", partial(checks.augmentation, setting, policy, mix))


def memory_format(setting: Setting) -> Iterator[Case]:
    """Every model."""
    return (Case("memory-format", model, partial(checks.memory_format, setting, model)) for model in setting.models)


def streamed(setting: Setting) -> Iterator[Case]:
    """A split that does not end with a whole batch."""
    yield Case("streamed", "1000 images in batches of 16", partial(checks.streamed, setting, 1000))


def memory(setting: Setting) -> Iterator[Case]:
    """Every model at 224 pixels, the small ones at 28 too."""
    for model in setting.models:
        small = [28] if find(model).min_size <= 28 and "simplecnn" in model else []
        for size in [*small, 224]:
            yield Case("memory", f"{model} at {size}", partial(checks.peak, setting, model, size))


def group(setting: Setting) -> Iterator[Case]:
    """One network with BatchNorm that needs no package."""
    yield Case("group", "a world of 1, efficientnet-lite0", partial(checks.group_of_one, setting, "efficientnet-lite0"))


def timed(setting: Setting) -> list[tuple[str, int]]:
    """Return the models and sizes whose rate is measured."""
    if setting.named:
        return [(name, 224 if setting.cuda else max(28, find(name).min_size)) for name in setting.models]
    cuda = [("simplecnn", 28), ("resnet18", 224), ("resnet50", 224)]
    chosen = cuda if setting.cuda else [("simplecnn", 28)]
    return chosen[:2] if setting.quick else chosen


def rate(setting: Setting) -> Iterator[Case]:
    """Both batches, compiled or not."""
    for compile_it in (False, True):
        for model, size in timed(setting):
            for batch in (64, 256):
                call = partial(rates.rate, setting, model, size, batch, compile_it)
                if compile_it and not setting.cuda and not setting.named:
                    call = partial(Result, SKIPPED, f"compiling takes long on a CPU; --models {model} tries it")
                words = f"{model} at {size}, batches of {batch}{', compiled' if compile_it else ''}"
                yield Case("rate", words, call)


def deterministic(setting: Setting) -> Iterator[Case]:
    """The same models."""
    for model, size in timed(setting):
        call = partial(rates.deterministic_cost, setting, model, size, 64)
        yield Case("deterministic", f"{model} at {size}, batches of 64", call)


# In this order: what is short and tells most first, since the time may run out.
CHECKS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "no-waits": no_waits,
    "two-steps": two_steps,
    "digests": digests,
    "logits": logits,
    "augmentation": augmentation,
    "memory-format": memory_format,
    "streamed": streamed,
    "group": group,
    "memory": memory,
    "rate": rate,
    "deterministic": deterministic,
    "compile": compiled,
}


def attempt(case: Case) -> Result:
    """Return what a case says; an error is a failure with its last line of ours, not the end of the command."""
    try:
        return case.call()
    except Exception as error:
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        where = f" ({Path(lines[-1].filename).name}:{lines[-1].lineno})" if lines else ""
        message = (str(error).strip().splitlines() or [""])[0][:300]
        return Result(FAILED, f"{type(error).__name__}: {message}{where}")


def report(setting: Setting, only: Sequence[str], minutes: float) -> tuple[Table, dict[str, int]]:
    """Run the checks, print each as soon as it is known, and return the table and how often each result came.

    Args:
        setting: where and how much.
        only: names of `CHECKS`; none for all.
        minutes: after which no further case begins.
    """
    caption = f"{hardware(setting)}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}."
    table = Table(caption, ["check", "case", "result", "figures or reason", "seconds"])
    print(table.head(), flush=True)
    counts, began = {OK: 0, FAILED: 0, SKIPPED: 0}, time.perf_counter()
    for case in [case for name in CHECKS if not only or name in only for case in CHECKS[name](setting)]:
        start = time.perf_counter()
        if start - began > 60 * minutes:
            result = Result(SKIPPED, f"{minutes:g} minutes are over; --minutes allows more")
        else:
            result = attempt(case)
        counts[result.status] += 1
        took = f"{time.perf_counter() - start:.1f}"
        cells = [case.check, case.name, result.status, result.text().replace("|", "/"), took]
        table.rows.append(cells)
        print(table.line(cells), flush=True)
    return table, counts


def hardware(setting: Setting) -> str:
    """Return the device's name."""
    if setting.cuda:
        return torch.cuda.get_device_name(setting.device)
    return f"CPU, {torch.get_num_threads()} threads"


def choose_setting(device: torch.device, models: str | None, quick: bool) -> tuple[Setting, str]:
    """Return where and how much, and a sentence on what that leaves out.

    Raises:
        ConfigError: an unknown model.
    """
    if models:
        names = tuple(find(name.strip()).name for name in models.split(","))
        return Setting(device, names, quick, named=True), ""
    chosen = tuple(ARCHITECTURES) if device.type == "cuda" else CPU_MODELS
    chosen = QUICK_MODELS if quick else chosen
    left = [name for name in ARCHITECTURES if name not in chosen]
    why = "--quick" if quick else "a CPU"
    return Setting(device, chosen, quick), f"Left out for {why}: {', '.join(left)}." if left else ""


def minutes(text: str) -> float:
    """Read a time above 0; argparse tells of the ValueError."""
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", action="append", choices=list(CHECKS), default=[], help="this check; may be repeated")
    parser.add_argument(
        "--models", metavar="A,B", help="these models, at all of their checks [default: all, on a CPU a few]"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK_MODELS)}")
    parser.add_argument("--minutes", type=minutes, help="begin nothing after this time [default: 8, on a CPU 3]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table to this file too")
    options = parser.parse_args(words)
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        parser.error(f"needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, this is {torch.__version__}")
    # Deterministic cuBLAS reads it at the first use of CUDA. It is also the workspace that torch gives it on an H100.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        setting, left_out = choose_setting(choose_device(options.device), options.models, options.quick)
        if left_out:
            print(left_out)
        default = 8 if setting.cuda else 3
        table, counts = report(setting, options.only, default if options.minutes is None else options.minutes)
        if options.json:
            made = Table(" ".join(part for part in (table.caption, left_out) if part), table.columns, table.rows)
            Report.make([made], hardware(setting) if setting.cuda else "").write(options.json)
    except XtrainError as error:
        parser.error(str(error))
    print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
