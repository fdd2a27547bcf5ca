"""The errors a user can cause. Each message is one line: what is wrong, then what to do.

They are raised where the fault is seen and turned into a line on stderr and an exit code by `console`.
"""

import difflib
from collections.abc import Iterable


class XtrainError(Exception):
    """Anything a user can put right; exit code 1."""

    exit_code = 1


class ConfigError(XtrainError):
    """An option, or a combination of options, that cannot work; wrong usage, exit code 2."""

    exit_code = 2


class DataError(XtrainError):
    """A data set that is missing, corrupt, or not what its layout promises."""


class CheckpointError(XtrainError):
    """A run folder or checkpoint that cannot be read or does not fit."""


class TrainingError(XtrainError):
    """Training cannot go on: a loss that is not finite, too little memory."""


class WeightsError(XtrainError):
    """Pretrained weights that are not at hand or are not the published file."""


class ModelFileError(XtrainError):
    """An exported `.onnx` that cannot be trusted: unreadable, without a card, or with a broken one."""


class ExportError(XtrainError):
    """An export that failed one of its gates; no file was left."""


class OutputError(XtrainError):
    """A place that cannot be written to, or already holds something."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint: which of `choices` the word was probably meant to be, or all of them."""
    names = list(choices)
    matches = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"choose one of: {', '.join(names)}"
