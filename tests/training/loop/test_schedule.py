from typing import Any

import pytest
import torch

from training.config import resolve
from training.loop.schedule import Schedule
from training.optimizers import make_optimizer

STEPS = 5  # updates an epoch


def rates(epochs: int, **settings: Any) -> list[float]:
    """The learning rate of every update of a run whose validation loss never falls."""
    config = resolve("simplecnn-v1", "pathmnist", lr=0.1, optimizer="sgd", epochs=epochs, **settings)
    optimizer = make_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))], config.lr, vars(config))
    schedule, seen = Schedule(config, optimizer, STEPS), []
    for _ in range(min(epochs * STEPS, config.max_steps or epochs * STEPS)):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_update()
        if len(seen) % STEPS == 0:
            schedule.after_epoch(1.0)
    return seen


@pytest.mark.parametrize("scheduler", ["none", "plateau", "cosine"])
def test_a_warm_up_rises_to_the_rate(scheduler: str) -> None:
    seen = rates(6, scheduler=scheduler, warmup_epochs=2, patience=30)
    assert seen[0] == pytest.approx(0.001) and seen[10] == pytest.approx(0.1)
    assert all(after > before for before, after in zip(seen[:10], seen[1:11], strict=True))
    assert seen[-1] == pytest.approx(0.1, abs=1e-9) if scheduler != "cosine" else seen[-1] < 0.01


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
def test_a_planned_schedule_ends_with_the_last_update(scheduler: str) -> None:
    """By epochs or by `--max-steps`: the rate comes down to nearly nothing, and no update is beyond the plan."""
    whole, cut = rates(4, scheduler=scheduler), rates(100, scheduler=scheduler, max_steps=20)
    assert whole == pytest.approx(cut) and max(whole) == pytest.approx(0.1, rel=0.05) and whole[-1] < 0.002


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0}),
        ({"momentum": 0.5, "nesterov": False}, {"momentum": 0.5, "nesterov": False}),
        ({"momentum": 0.0}, {"momentum": 0.0, "nesterov": False}),
        ({"weight_decay": 0.05}, {"weight_decay": 0.05}),
    ],
)
def test_the_optimizer_gets_what_was_asked_for(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    config = resolve("simplecnn-v1", "pathmnist", optimizer="sgd", **settings)
    group = make_optimizer(
        config.optimizer, [torch.nn.Parameter(torch.zeros(1))], config.lr, vars(config)
    ).param_groups[0]
    assert {name: group[name] for name in expected} == expected
