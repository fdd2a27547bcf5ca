"""Parameters as an optimizer on the CPU is fast with them: their elements in the order in which they lie in memory.

Convolutions keep their weights channels-last. torch's fused optimizers for the CPU copy such a weight and its gradient
into the other order at every step, which takes longer than the update; views of the same memory need no copy. The bits
are the same, and `state_dict` speaks of the parameters themselves, so that checkpoints do not depend on any of this.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class MemoryOrder:
    """Views of a network's parameters, contiguous where the parameter is channels-last."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.views = [_view(parameter) for parameter in self.parameters]

    def take_gradients(self) -> None:
        """Give the views the gradients of their parameters, as views too."""
        for view, parameter in self._pairs():
            view.grad = None if parameter.grad is None else parameter.grad.permute(NHWC)

    def drop_gradients(self) -> None:
        """Forget the gradients of views and parameters."""
        for gradient_of in (*self.views, *self.parameters):
            gradient_of.grad = None

    def state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of an optimizer of the views, each tensor in the shape and memory order of its parameter."""
        return self._permuted(optimizer.state_dict(), NCHW)

    def load_state_dict(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Give an optimizer of the views what `state_dict` returned, or an optimizer of the parameters would have."""
        optimizer.load_state_dict(self._permuted(state, NHWC))
        # A fused kernel takes weight and state as the bytes lie and would mix two orders up.
        for view in self.views:
            kept = optimizer.state.get(view, {})
            kept.update({name: value.contiguous() for name, value in kept.items() if isinstance(value, torch.Tensor)})

    def _pairs(self) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        return [pair for pair in zip(self.views, self.parameters, strict=True) if pair[0] is not pair[1]]

    def _permuted(self, state: Mapping[str, Any], order: tuple[int, ...]) -> dict[str, Any]:
        """Return an optimizer's state with the tensors of viewed parameters in another order of dimensions."""
        viewed = [view is not parameter for view, parameter in zip(self.views, self.parameters, strict=True)]

        def permuted(value: Any) -> Any:
            moved = isinstance(value, torch.Tensor) and value.dim() == len(order)
            return value.permute(order) if moved else value

        of_parameters = {
            index: {name: permuted(value) for name, value in entry.items()} if viewed[index] else entry
            for index, entry in state["state"].items()
        }
        return {**state, "state": of_parameters}


def _view(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """Return a contiguous view of a channels-last parameter, any other itself."""
    if parameter.is_contiguous() or not parameter.is_contiguous(memory_format=torch.channels_last):
        return parameter
    return torch.nn.Parameter(parameter.detach().permute(NHWC))
