"""Raw pixels to the network's input: the one module that is trained with and exported.

Because resizing and normalisation live here and nowhere else, a client of the exported file sends raw uint8
pixels and training and serving cannot drift apart.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Preprocess(nn.Module):
    """Resize (bilinear, half-pixel centres), centre crop and normalise uint8 images (N, H, W, C).

    The three steps are methods too, so that the training loop can augment between resizing and normalising.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        native: tuple[int, int],
        size: int,
        crop: int | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.native, self.size, self.crop = native, size, crop
        # Shrinking needs the low-pass filter or it aliases; enlarging is the same with and without.
        self.antialias = min(native) > size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def output_size(self) -> int:
        """Side of the network's input in pixels."""
        return self.crop or self.size

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 (N, H, W, C) as float (N, C, S, S) in [0, 1]."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if self.native != (self.size, self.size):
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=self.antialias)
        if self.crop is not None and self.crop != self.size:
            edge = (self.size - self.crop) // 2
            pixels = pixels[:, :, edge : edge + self.crop, edge : edge + self.crop]
        return pixels

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float (N, C, S, S) in [0, 1] with zero mean and unit deviation."""
        return (pixels - self.mean) / self.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 (N, H, W, C) as the normalised float (N, C, S, S) the network takes."""
        return self.normalise(self.resize(images))
