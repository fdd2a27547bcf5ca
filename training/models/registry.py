"""The registry: every architecture of the paper with its limits and the paper's recipe, torch-free until built.

`ARCHITECTURES` is what the command line, the exporter and the tests iterate over; `build` makes the network.
All networks take normalised float images (N, C, H, W) and return logits (N, classes).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xtrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """Settings of the paper (xAI-Proj-B, Bamberg 2024) for one architecture.

    `image_size` is the side the images are resized to (None: the data set's own), `crop` the centre crop after
    it; `statistics` says whose mean and std normalise: ImageNet's or the data set's training rows'.
    """

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    patience: int
    image_size: int | None = None
    crop: int | None = None
    statistics: str = "dataset"
    # ReduceLROnPlateau on validation loss, factor 0.25, patience 8: the paper's ResNet experiments.
    plateau_factor: float = 0.25
    plateau_patience: int = 8
    # What differs on handwritten digits (MNIST and `digits`).
    on_digits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    `module` holds `build(name, channels, classes, image_size, **options)`; `options` are the switches it takes
    with their defaults; `min_size` the smallest input side; `pretrained` whether published weights exist.
    """

    name: str
    module: str
    recipe: Recipe
    min_size: int
    pretrained: bool = False
    options: dict[str, bool] = field(default_factory=dict)


# SimpleCNN: lr 0.001, batch 32, Adam; 15 epochs on MNIST, early stopping on PathMNIST. The paper names neither a
# patience nor a schedule for it: the ResNets' are taken, but within 15 epochs a plateau patience of 8 would hardly
# act, and 1 was better on MNIST's validation rows (simplecnn-v1: 98.80 % with 8, 98.95 % with 1).
_SIMPLE = Recipe("adam", 0.001, 32, epochs=100, patience=20, on_digits={"epochs": 15, "plateau_patience": 1})
# AlexNet: Adagrad, 256 then centre crop 224, ImageNet statistics, patience 8; lr 0.01 in the balancing and
# augmentation experiments. Its plateau scheduler must be the shorter of the two patiences to act at all.
_ALEXNET = Recipe("adagrad", 0.01, 64, 150, 8, image_size=256, crop=224, statistics="imagenet", plateau_patience=4)
# The batch-normalisation experiment: lr 0.001, 150 epochs.
_ALEXNET_BN = Recipe("adagrad", 0.001, 64, 150, 8, image_size=256, crop=224, statistics="imagenet", plateau_patience=4)
# ResNet18-152: Adagrad, lr 0.0005, batch 64, 224, 200 epochs, early stopping with patience 20.
_RESNET = Recipe("adagrad", 0.0005, 64, epochs=200, patience=20, image_size=224)
# Xception: AdamW, lr 0.001, batch 32, 168 px (299 as an option), ImageNet statistics, patience 7.
_XCEPTION = Recipe("adamw", 0.001, 32, 200, 7, image_size=168, statistics="imagenet", plateau_patience=4)

_ENTRIES = [
    Architecture("simplecnn-v1", "training.models.simplecnn", _SIMPLE, min_size=4),
    Architecture(
        "simplecnn",
        "training.models.simplecnn",
        _SIMPLE,
        min_size=8,
        options={"batch_norm": True, "dropout": True},
    ),
    Architecture("alexnet", "training.models.alexnet", _ALEXNET, min_size=63, pretrained=True),
    Architecture("alexnet-bn", "training.models.alexnet", _ALEXNET_BN, min_size=63, pretrained=True),
    *(
        Architecture(
            f"resnet{depth}",
            "training.models.resnet",
            _RESNET,
            min_size=28,
            pretrained=True,
            options={"cifar_stem": False},
        )
        for depth in (18, 34, 50, 101, 152)
    ),
    Architecture("xception", "training.models.xception", _XCEPTION, min_size=96, pretrained=True),
]
ARCHITECTURES: dict[str, Architecture] = {entry.name: entry for entry in _ENTRIES}


def find(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        ConfigError: unknown, with the nearest names.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ConfigError(f"no model is called {name!r}; {nearest(name, ARCHITECTURES)}") from None


def build(name: str, *, channels: int, classes: int, image_size: int, **options: Any) -> nn.Module:
    """Make a freshly initialised network.

    Args:
        name: a key of `ARCHITECTURES`.
        channels: 1 (grey) or 3 (RGB).
        classes: number of logits, at least 1.
        image_size: side of the square input in pixels.
        options: the architecture's switches; those not named keep their defaults.

    Raises:
        ConfigError: an unknown name or switch, or an image size below what the network takes.
    """
    entry = find(name)
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        flag = "--" + unknown[0].replace("_", "-")
        takers = [other.name for other in _ENTRIES if unknown[0] in other.options]
        raise ConfigError(f"{name} has no switch {flag}; it belongs to {', '.join(takers) or 'no model'}")
    if image_size < entry.min_size:
        raise ConfigError(
            f"{name} takes images from {entry.min_size} pixels, not {image_size}; "
            f"use --image-size {entry.min_size} or larger"
        )
    module = importlib.import_module(entry.module)
    network: nn.Module = module.build(name, channels, classes, image_size, **{**entry.options, **options})
    return network
