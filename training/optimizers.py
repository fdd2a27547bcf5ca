"""The optimizers and learning-rate schedulers by name: one table that the options, the loop and the estimate read.

Nothing here loads torch before an optimizer is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerEntry:
    """What the loop must know of a torch optimizer.

    Attributes:
        torch_name: its class in `torch.optim`.
        learning_rate: used where the recipe's rate belongs to another optimizer.
        state_tensors: tensors of a parameter's size that it keeps for it.
        fused: whether torch has one kernel for all parameters, on the CPU too.
        cycles_momentum: whether OneCycleLR may move its momentum (or first beta) against the learning rate.
        keywords: arguments besides the learning rate.
    """

    torch_name: str
    learning_rate: float
    state_tensors: int
    fused: bool
    cycles_momentum: bool
    keywords: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adagrad": OptimizerEntry("Adagrad", 0.01, 1, fused=True, cycles_momentum=False),
    "adam": OptimizerEntry("Adam", 0.001, 2, fused=True, cycles_momentum=True),
    "adamw": OptimizerEntry("AdamW", 0.001, 2, fused=True, cycles_momentum=True),
    "nadam": OptimizerEntry("NAdam", 0.002, 2, fused=False, cycles_momentum=True),
    # OneCycleLR would switch a momentum on that RMSprop has not by default.
    "rmsprop": OptimizerEntry("RMSprop", 0.001, 1, fused=False, cycles_momentum=False),
    "sgd": OptimizerEntry("SGD", 0.01, 1, True, True, {"momentum": 0.9, "nesterov": True}),
}


@dataclass(frozen=True)
class SchedulerEntry:
    """What the loop must know of a learning-rate scheduler.

    `planned` says that it is laid out over all epochs beforehand, so that their number cannot change on resume.
    """

    summary: str
    planned: bool = False


SCHEDULERS: dict[str, SchedulerEntry] = {
    "plateau": SchedulerEntry("lower the rate when the validation loss stops falling"),
    "cosine": SchedulerEntry("half a cosine over all epochs", planned=True),
    "onecycle": SchedulerEntry("up and down once (Smith 2018)", planned=True),
    "none": SchedulerEntry("a constant rate"),
}


def make_optimizer(name: str, lr: float, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the named torch optimizer at its defaults; SGD has Nesterov momentum 0.9."""
    import torch

    entry = OPTIMIZERS[name]
    fused = {"fused": True} if entry.fused else {}
    optimizer: torch.optim.Optimizer = getattr(torch.optim, entry.torch_name)(
        parameters, lr=lr, **entry.keywords, **fused
    )
    return optimizer
