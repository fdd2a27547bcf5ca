"""When the learning rate changes and when training ends: scheduler and early stopping."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from training.config import TrainConfig
from training.optimizers import OPTIMIZERS
from xtrain.errors import TrainingError
from xtrain.metrics import Metrics

WARMUP_START = 0.01  # share of the learning rate that a warm-up begins with


class Schedule:
    """Changes the learning rate: `plateau` by epochs and validation loss, the others by updates, after a warm-up."""

    def __init__(self, config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Plan over `config.epochs` of `steps` updates, or `config.max_steps` if they are fewer."""
        total = min(config.epochs * steps, config.max_steps or config.epochs * steps)
        self.warming = min(config.warmup_epochs * steps, total)
        self.parts: dict[str, Any] = {}
        if config.scheduler == "plateau":
            factor, patience = config.plateau_factor, config.plateau_patience
            self.parts["plateau"] = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
        elif config.scheduler == "cosine":
            self.parts["planned"] = CosineAnnealingLR(optimizer, T_max=max(1, total - self.warming))
        elif config.scheduler == "onecycle":
            cycles = OPTIMIZERS[config.optimizer].cycles_momentum
            self.parts["planned"] = OneCycleLR(
                optimizer, max_lr=config.lr, total_steps=total, cycle_momentum=cycles and config.momentum != 0
            )
        if self.warming:
            self.parts["warmup"] = LinearLR(optimizer, WARMUP_START, total_iters=self.warming)

    def after_update(self) -> None:
        """Step the schedules that go by updates."""
        if self.warming:
            self.parts["warmup"].step()
            self.warming -= 1
        elif "planned" in self.parts:
            self.parts["planned"].step()

    def after_epoch(self, val_loss: float) -> None:
        """Step the plateau schedule with the validation loss of an epoch."""
        if "plateau" in self.parts and not self.warming:
            self.parts["plateau"].step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"warming": self.warming, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.warming = state["warming"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


@dataclass
class EarlyStopping:
    """Keeps count of the best epoch by the figure that is monitored.

    An equal figure with a lower loss is the better checkpoint, but only a better figure renews the patience. `best` is
    the figure, the negative of a loss.
    """

    patience: int
    monitor: str = "accuracy"
    best_epoch: int = 0
    best: float = -math.inf
    best_loss: float = math.inf
    stale: int = 0

    def update(self, epoch: int, metrics: Metrics) -> bool:
        """Record one epoch; return whether it is the best so far.

        Raises:
            TrainingError: the validation rows do not define the figure.
        """
        figure = getattr(metrics, self.monitor)
        if figure is None:
            raise TrainingError(
                f"--monitor {self.monitor}: the validation rows hold one class only, which does not define it; "
                "use --monitor accuracy"
            )
        figure = -figure if self.monitor == "loss" else figure
        self.stale = 0 if figure > self.best else self.stale + 1
        better = (figure, -metrics.loss) > (self.best, -self.best_loss)
        if better:
            self.best_epoch, self.best, self.best_loss = epoch, figure, metrics.loss
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the figure has not become better for `patience` epochs."""
        return self.stale >= self.patience
