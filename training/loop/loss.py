"""The loss of a batch, a sum over its rows: cross-entropy or focal loss, with class weights and mixed labels."""

import torch
import torch.nn.functional as F

from training.config import TrainConfig

FOCAL_GAMMA = 2.0  # Lin et al. 2017, section 5


class Loss:
    """Sums the losses of rows, so that processes and partial batches add up."""

    def __init__(self, config: TrainConfig, class_weights: torch.Tensor | None = None) -> None:
        """Take loss and smoothing from the configuration; `class_weights` (classes,) lie on the device."""
        self.focal, self.smoothing = config.loss == "focal", config.label_smoothing
        self.class_weights = class_weights

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
        """Return the summed loss.

        Args:
            logits: (B, classes) float32.
            labels: (B,) int64.
            share: (B,) of each image in its mixture with the image before it; None where nothing was mixed.
        """
        rows = self._rows(logits, labels)
        if share is not None:
            rows = torch.lerp(self._rows(logits, labels.roll(1)), rows, share)
        return rows.sum()

    def _rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss (B,) of each row; focal loss is (1 - p)^2 times the cross-entropy, p of the true class."""
        rows = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        if self.focal:
            true = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
            rows = rows * (1 - true) ** FOCAL_GAMMA
        if self.class_weights is not None:
            rows = rows * self.class_weights.index_select(0, labels)
        return rows
