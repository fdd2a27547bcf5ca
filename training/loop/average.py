"""An exponential moving average of the weights, which is then what is validated and kept (`--ema`)."""

import copy

import torch
from torch import nn

from training.models.classifier import Classifier


class MovingAverage:
    """Follows a classifier's network; parameters and buffers are averaged, a few kernels for all of them.

    torch's `AveragedModel` keeps its count on the device and reads it in every step, which waits for the device.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        """Start from the present weights; `decay` in (0, 1) is the share of the old average at each step."""
        self.decay, self.steps = decay, 0
        # Shares the preprocessing; only the network is another.
        self.classifier = Classifier.__new__(Classifier)
        nn.Module.__init__(self.classifier)
        self.classifier.spec, self.classifier.preprocess = classifier.spec, classifier.preprocess
        self.classifier.network = copy.deepcopy(classifier.network).requires_grad_(False)
        self._averages = _tensors(self.classifier.network)
        self._followed = _tensors(classifier.network)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the network's present weights; the first update takes them as they are."""
        floating, counts = self._averages
        followed, followed_counts = self._followed
        torch._foreach_lerp_(floating, followed, 1 - self.decay if self.steps else 1.0)
        if counts:
            torch._foreach_copy_(counts, followed_counts)
        self.steps += 1

    def restore(self, weights: dict[str, torch.Tensor], steps: int) -> None:
        """Continue from the averaged weights after `steps` updates."""
        self.classifier.network.load_state_dict(weights)
        self.steps = steps


def _tensors(network: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the tensors of a network that can be averaged, and its counts."""
    tensors = [*network.parameters(), *network.buffers()]
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return floating, [tensor for tensor in tensors if not tensor.is_floating_point()]
