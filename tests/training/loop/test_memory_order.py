"""An optimizer over views gives the bits that one over the parameters gives, without copying them."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from training.loop.memory_order import MemoryOrder
from training.optimizers import OPTIMIZERS, make_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 3))
    return layers.to(memory_format=torch.channels_last)


def gradients(layers: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    layers(torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last)).square().sum().backward()


def trained(name: str, steps: range, viewed: bool, state: dict[str, Any] | None = None) -> tuple[nn.Module, Any]:
    """Return a network after some steps, and the state of its optimizer."""
    state = copy.deepcopy(state)  # what it loads it would change
    layers = network()
    order = MemoryOrder(layers.parameters())
    optimizer = make_optimizer(name, order.views if viewed else layers.parameters(), 0.01, {})
    if state is not None:
        layers.load_state_dict(state["network"])
        (order.load_state_dict if viewed else lambda to, what: to.load_state_dict(what))(optimizer, state["optimizer"])
    for seed in steps:
        gradients(layers, seed)
        if viewed:
            order.take_gradients()
        optimizer.step()
        order.drop_gradients()
    return layers, order.state_dict(optimizer) if viewed else optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_bits_as_without_views_and_after_either_resumes_the_other(name: str) -> None:
    plain, viewed = trained(name, range(3), viewed=False), trained(name, range(3), viewed=True)
    ends = []
    for layers, state in (plain, viewed):
        saved = {"network": layers.state_dict(), "optimizer": state}
        ends += [trained(name, range(3, 6), way, saved)[0] for way in (False, True)]
    whole = trained(name, range(6), viewed=True)[0]
    for end in ends:
        for mine, other in zip(end.parameters(), whole.parameters(), strict=True):
            assert mine.equal(other)


def test_no_copy_at_a_step() -> None:
    layers = network()
    order = MemoryOrder(layers.parameters())
    assert all(view.is_contiguous() for view in order.views)
    assert [view.data_ptr() for view in order.views] == [parameter.data_ptr() for parameter in layers.parameters()]
    optimizer = make_optimizer("adam", order.views, 0.01, {})
    for seed in range(2):
        gradients(layers, seed)
        order.take_gradients()
        with torch.profiler.profile(record_shapes=True) as profile:
            optimizer.step()
        order.drop_gradients()
    copied = [event.input_shapes[0] for event in profile.events() if event.name == "aten::copy_"]
    assert not any(copied), f"scalars alone: {copied}"
    assert all(parameter.grad is None for parameter in layers.parameters())
