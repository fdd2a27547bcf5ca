"""A classifier as a whole: raw uint8 pixels in, logits out, and the plain facts needed to build it again."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from training.config import TrainConfig
from xtrain.data.datasets import Dataset, Split, channel_statistics
from training.models.registry import build
from training.models.preprocess import Preprocess, imagenet_statistics


@dataclass(frozen=True)
class ModelSpec:
    """What a network is and what it takes; it travels in the checkpoint and from there into the card.

    `shape` is the native (H, W, C) of the images, `image_size` the side they are resized to, `crop` the centre
    crop after that; `mean` and `std` are per channel in units of [0, 1].
    """

    architecture: str
    options: dict[str, bool]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    image_size: int
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelSpec":
        """Read back what `as_json` gave, lists made tuples again."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def describe(config: TrainConfig, dataset: Dataset, train: Split) -> ModelSpec:
    """Settle size and statistics from the configuration and the training rows, and from no other rows."""
    height, width, channels = dataset.shape
    mean, std = imagenet_statistics(channels) if config.statistics == "imagenet" else channel_statistics(train.images)
    return ModelSpec(
        architecture=config.model,
        options=config.options,
        classes=dataset.classes,
        shape=dataset.shape,
        image_size=config.image_size or max(height, width),
        crop=config.crop,
        mean=mean,
        # A constant channel has no deviation; dividing by 1 leaves it constant instead of infinite.
        std=tuple(value or 1.0 for value in std),
    )


class Classifier(nn.Module):
    """Preprocessing and network in one: uint8 (N, H, W, C) to logits (N, classes)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        height, width, channels = spec.shape
        self.spec = spec
        self.preprocess = Preprocess((height, width), spec.image_size, spec.crop, spec.mean, spec.std)
        self.network = build(
            spec.architecture,
            channels=channels,
            classes=len(spec.classes),
            image_size=self.preprocess.output_size,
            **spec.options,
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of raw images."""
        logits: torch.Tensor = self.network(self.preprocess(images))
        return logits
