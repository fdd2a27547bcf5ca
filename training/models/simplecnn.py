"""SimpleCNN in its two versions: the paper's small convolutional networks for 28x28 images."""

import torch
from torch import nn

from training.models.dropout import ByteDropout


class SimpleCNNv1(nn.Module):
    """Two 3x3 convolutions (32, 64) with LeakyReLU and 2x2 max-pooling, then one linear layer."""

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding="same"),
            nn.LeakyReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding="same"),
            nn.LeakyReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(64 * (image_size // 4) ** 2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of normalised images (N, C, S, S)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class SimpleCNN(nn.Module):
    """Three 3x3 convolutions (32, 64, 128) and a hidden layer of 256, regularised.

    Each block is convolution, BatchNorm, ReLU, 2x2 max-pooling, dropout 0.25; the hidden layer is followed by
    BatchNorm, ReLU and dropout 0.5. `batch_norm` and `dropout` switch either kind of regularisation off, for
    the paper's "batch norm only" and "dropout only" experiments.
    """

    def __init__(self, channels: int, classes: int, image_size: int, batch_norm: bool, dropout: bool) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for width_in, width_out in ((channels, 32), (32, 64), (64, 128)):
            blocks.append(nn.Conv2d(width_in, width_out, 3, padding="same"))
            if batch_norm:
                blocks.append(nn.BatchNorm2d(width_out))
            blocks += [nn.ReLU(), nn.MaxPool2d(2)]
            if dropout:
                blocks.append(ByteDropout(0.25))
        self.features = nn.Sequential(*blocks)
        hidden: list[nn.Module] = [nn.Linear(128 * (image_size // 8) ** 2, 256)]
        if batch_norm:
            hidden.append(nn.BatchNorm1d(256))
        hidden.append(nn.ReLU())
        if dropout:
            hidden.append(ByteDropout(0.5))
        self.classifier = nn.Sequential(*hidden, nn.Linear(256, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of normalised images (N, C, S, S)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def build(name: str, channels: int, classes: int, image_size: int, **options: bool) -> nn.Module:
    """Make `simplecnn-v1` or `simplecnn`; the linear layer fixes the image size."""
    if name == "simplecnn-v1":
        return SimpleCNNv1(channels, classes, image_size)
    return SimpleCNN(channels, classes, image_size, **options)
