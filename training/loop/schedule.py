"""How training moves and when it ends: optimizer, learning-rate schedule, early stopping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from training.config import TrainConfig


def make_optimizer(config: TrainConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The named torch optimizer at its defaults; SGD with Nesterov momentum 0.9."""
    makers: dict[str, Any] = {
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
    }
    extra: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if config.optimizer == "sgd" else {}
    if config.optimizer in ("adagrad", "adam", "adamw", "sgd"):
        extra["fused"] = True  # one kernel for all parameters, on the CPU too
    optimizer: torch.optim.Optimizer = makers[config.optimizer](parameters, lr=config.lr, **extra)
    return optimizer


class Schedule:
    """Moves the learning rate: `plateau` by epochs and validation loss, `cosine` and `onecycle` by batches."""

    def __init__(self, config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Plan over `config.epochs` of `steps` batches."""
        self.plateau: ReduceLROnPlateau | None = None
        self.planned: CosineAnnealingLR | OneCycleLR | None = None
        total = config.epochs * steps
        if config.scheduler == "plateau":
            self.plateau = ReduceLROnPlateau(optimizer, factor=config.plateau_factor, patience=config.plateau_patience)
        elif config.scheduler == "cosine":
            self.planned = CosineAnnealingLR(optimizer, T_max=total)
        elif config.scheduler == "onecycle":
            self.planned = OneCycleLR(optimizer, max_lr=config.lr, total_steps=total)

    def after_batch(self) -> None:
        """One batch was trained on."""
        if self.planned:
            self.planned.step()

    def after_epoch(self, val_loss: float) -> None:
        """One epoch was validated."""
        if self.plateau:
            self.plateau.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """What going on needs."""
        active = self.plateau or self.planned
        return active.state_dict() if active else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        active = self.plateau or self.planned
        if active:
            active.load_state_dict(state)


@dataclass
class EarlyStopping:
    """Keeps count of the best epoch by validation accuracy.

    An equal accuracy with a lower loss is the better checkpoint, but only a higher accuracy renews the patience.
    """

    patience: int
    best_epoch: int = 0
    best_accuracy: float = -math.inf
    best_loss: float = math.inf
    stale: int = 0

    def update(self, epoch: int, accuracy: float, loss: float) -> bool:
        """Take in one epoch; True if it is the best so far."""
        self.stale = 0 if accuracy > self.best_accuracy else self.stale + 1
        better = (accuracy, -loss) > (self.best_accuracy, -self.best_loss)
        if better:
            self.best_epoch, self.best_accuracy, self.best_loss = epoch, accuracy, loss
        return better

    @property
    def exhausted(self) -> bool:
        """Whether accuracy has not risen for `patience` epochs."""
        return self.stale >= self.patience
