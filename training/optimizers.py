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
        options: settings of a run besides the weight decay that only some optimizers take.
    """

    torch_name: str
    learning_rate: float
    state_tensors: int
    fused: bool
    cycles_momentum: bool
    keywords: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adagrad": OptimizerEntry("Adagrad", 0.01, 1, fused=True, cycles_momentum=False),
    "adam": OptimizerEntry("Adam", 0.001, 2, fused=True, cycles_momentum=True),
    "adamw": OptimizerEntry("AdamW", 0.001, 2, fused=True, cycles_momentum=True),
    "nadam": OptimizerEntry("NAdam", 0.002, 2, fused=False, cycles_momentum=True),
    # OneCycleLR would switch a momentum on that RMSprop has not by default.
    "rmsprop": OptimizerEntry("RMSprop", 0.001, 1, fused=False, cycles_momentum=False),
    "sgd": OptimizerEntry("SGD", 0.01, 1, True, True, {"momentum": 0.9, "nesterov": True}, ("momentum", "nesterov")),
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


def make_optimizer(
    name: str, parameters: Iterable[torch.nn.Parameter], lr: float, settings: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Return the torch optimizer of that name; what `settings` leave None is the table's default, then torch's.

    `settings` may hold all settings of a run: the optimizer takes its own.
    """
    import torch

    entry = OPTIMIZERS[name]
    chosen = {option: settings.get(option) for option in ("weight_decay", *entry.options)}
    keywords = {**entry.keywords, **{option: value for option, value in chosen.items() if value is not None}}
    if keywords.get("momentum") == 0:
        keywords["nesterov"] = False
    keywords |= {"fused": True} if entry.fused else {}
    optimizer: torch.optim.Optimizer = getattr(torch.optim, entry.torch_name)(parameters, lr=lr, **keywords)
    return optimizer
