"""An exponential moving average of the weights, which is then what is validated and kept (`--ema`)."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.models.classifier import Classifier


class MovingAverage:
    """Follows a classifier's network; parameters and buffers are averaged."""

    def __init__(self, classifier: Classifier, decay: float) -> None:
        """Start from the present weights; `decay` in (0, 1) is the share of the old average at each step."""
        average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._model = AveragedModel(classifier.network, multi_avg_fn=average, use_buffers=True)
        # Shares the preprocessing; only the network is another.
        self.classifier = Classifier.__new__(Classifier)
        nn.Module.__init__(self.classifier)
        self.classifier.spec, self.classifier.preprocess = classifier.spec, classifier.preprocess
        self.classifier.network = self._model.module

    @property
    def steps(self) -> int:
        """Updates so far."""
        return int(self._model.n_averaged)

    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self._model.update_parameters(network)

    def restore(self, weights: dict[str, torch.Tensor], steps: int) -> None:
        """Continue from the averaged weights after `steps` updates."""
        self._model.module.load_state_dict(weights)
        self._model.n_averaged.fill_(steps)
