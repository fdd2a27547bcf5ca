"""Dropout whose mask costs one random byte an element instead of one random number.

On the CPU torch draws its mask by a serial generator, a fifth of SimpleCNN's training step; eight bytes of every
64-bit draw give the same distribution for probabilities that are multiples of 1/256, as 0.25 and 0.5 are.
"""

import torch
from torch import nn


class ByteDropout(nn.Dropout):
    """`nn.Dropout` for probabilities k/256; on other devices than the CPU it is `nn.Dropout`."""

    def __init__(self, p: float) -> None:
        """Raise ValueError if `p` is no multiple of 1/256."""
        super().__init__(p)
        if p * 256 != int(p * 256):
            raise ValueError(f"dropout probability {p} is no multiple of 1/256")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Zero elements with probability p and scale the rest by 1/(1-p), in training only."""
        if not self.training or features.device.type != "cpu":
            return super().forward(features)
        count = features.numel()
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:count] >= int(self.p * 256)
        scale = kept.to(features.dtype).mul_(1 / (1 - self.p))
        # In the memory order of the features, so that the product reads both straight through.
        return features * torch.as_strided(scale, features.shape, features.stride())
