"""When the learning rate changes and when training ends: scheduler and early stopping."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from training.config import TrainConfig
from training.optimizers import OPTIMIZERS


class Schedule:
    """Changes the learning rate: `plateau` by epochs and validation loss, `cosine` and `onecycle` by batches."""

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
            cycles = OPTIMIZERS[config.optimizer].cycles_momentum
            self.planned = OneCycleLR(optimizer, max_lr=config.lr, total_steps=total, cycle_momentum=cycles)

    def after_batch(self) -> None:
        """Step the schedules that are planned by batches."""
        if self.planned:
            self.planned.step()

    def after_epoch(self, val_loss: float) -> None:
        """Step the plateau schedule with the validation loss of an epoch."""
        if self.plateau:
            self.plateau.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        active = self.plateau or self.planned
        return active.state_dict() if active else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
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
        """Record one epoch; return whether it is the best so far."""
        self.stale = 0 if accuracy > self.best_accuracy else self.stale + 1
        better = (accuracy, -loss) > (self.best_accuracy, -self.best_loss)
        if better:
            self.best_epoch, self.best_accuracy, self.best_loss = epoch, accuracy, loss
        return better

    @property
    def exhausted(self) -> bool:
        """Whether accuracy has not risen for `patience` epochs."""
        return self.stale >= self.patience
