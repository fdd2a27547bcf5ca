"""A classifier as a whole: raw uint8 pixels in, logits out, and the plain values needed to build it again."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from training.models.preprocess import Preprocess
from training.models.registry import build


@dataclass(frozen=True)
class ModelSpec:
    """What a network is and what it takes; it travels in the checkpoint and from there into the card.

    `switches` are the architecture's booleans that were set; `shape` is the native (H, W, C) of the images,
    `image_size` the side they are resized to, `crop` the centre crop after that; `mean` and `std` are per channel in
    units of [0, 1].
    """

    architecture: str
    switches: dict[str, bool]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    image_size: int
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelSpec":
        """Read back what `as_json` gave, lists made tuples again."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


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
            **spec.switches,
        )

    @property
    def last_layer_name(self) -> str:
        """The name of the linear layer of the network that gives the logits, such as `fc`."""
        name: str = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)][-1]
        return name

    @property
    def last_layer(self) -> nn.Module:
        """The linear layer that gives the logits."""
        return self.network.get_submodule(self.last_layer_name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of raw images."""
        logits: torch.Tensor = self.network(self.preprocess(images))
        return logits
