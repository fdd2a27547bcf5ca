"""The network that is exported: members side by side, softmax, weighted mean."""

from collections.abc import Sequence

import torch
from torch import nn

from training.checkpoint import Checkpoint
from training.errors import ExportError
from training.pipeline import Classifier


class Ensemble(nn.Module):
    """Uint8 images (N, H, W, C) to probabilities (N, classes): the weighted mean of the members'.

    One member with weight 1 is the single model. Each member keeps its own size and statistics.
    """

    def __init__(self, members: Sequence[Classifier], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = list(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities of raw images."""
        parts: list[torch.Tensor] = [member(images).softmax(dim=1) for member in self.members]
        if len(parts) == 1:
            return parts[0]
        return torch.stack([part * weight for part, weight in zip(parts, self.weights, strict=True)]).sum(0)


def check_members(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse runs that cannot be averaged, saying where they differ.

    Members must agree in the data and its division too: where they do not, one member's validation rows are
    another's training rows, and no figure of the ensemble would mean anything.

    Raises:
        ExportError: with the field, and both values.
    """
    first = checkpoints[0]
    for position, other in enumerate(checkpoints[1:], start=2):
        for what, ours, theirs in (
            ("classes", first.spec.classes, other.spec.classes),
            ("image shape", first.spec.shape, other.spec.shape),
            ("data set (md5)", first.data.md5, other.data.md5),
            ("protocol", first.data.protocol, other.data.protocol),
            ("split digest", first.data.split_digest, other.data.split_digest),
        ):
            if ours != theirs:
                raise ExportError(
                    f"runs 1 and {position} differ in {what}: {ours} and {theirs}; "
                    "average runs of the same data and --split-seed"
                )
        if any(other.digest == earlier.digest for earlier in checkpoints[: position - 1]):
            raise ExportError(f"run {position} has the same weights as an earlier one; name different runs")
