"""AlexNet of torchvision, and the same with a BatchNorm behind each of its five convolutions.

The authors' batch-norm variant rebinds a loop variable, so it inserts none, and loses the last ReLU and MaxPool: the
paper's finding that batch normalisation has no effect was never tested. This one is the network the paper describes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from training.models.architecture import (
    OURS,
    Architecture,
    PublishedWeights,
    Recipe,
    Setting,
    with_intended_jitter,
)

if TYPE_CHECKING:
    from torch import nn

_ALEXNET = "paper, AlexNet experiments"
# The plateau scheduler's patience must be the shorter of the two, or the learning rate never drops.
_PLATEAU = OURS + ": below the early-stop patience of 8"
_PAPER = Recipe(
    "paper",
    "Adagrad, 256 pixels then a centre crop of 224, ImageNet statistics.",
    {
        "optimizer": Setting("adagrad", _ALEXNET),
        "lr": Setting(0.01, "paper, tables 1 and 2 (balancing and augmentation)"),
        "batch_size": Setting(64, _ALEXNET),
        "epochs": Setting(150, "paper, table 3 (batch normalisation)"),
        "patience": Setting(8, _ALEXNET),
        "scheduler": Setting("plateau", "authors' code"),
        "plateau_factor": Setting(0.25, "paper, ResNet experiments"),
        "plateau_patience": Setting(4, _PLATEAU),
        "image_size": Setting(256, _ALEXNET),
        "crop": Setting(224, _ALEXNET),
        "statistics": Setting("imagenet", _ALEXNET),
        "balance": Setting(True, "paper, table 1"),
    },
)
_EXACT, _INTENDED = with_intended_jitter(_PAPER)
_BALANCING = _EXACT.derive(
    "paper-balancing",
    "The balancing experiment (table 1): balanced sampling without augmentation; compare with --no-balance.",
    augment=Setting("none", OURS + ": the table varies the sampling alone"),
)
_BATCH_NORM = _EXACT.derive(
    "paper-bn",
    "The batch-normalisation experiment (table 3): learning rate 0.001, 150 epochs.",
    lr=Setting(0.001, "paper, table 3 (batch normalisation)"),
)
# The paper trains this network in that experiment only.
_BN_EXACT, _BN_INTENDED = with_intended_jitter(
    _PAPER.derive("paper", _PAPER.summary, lr=Setting(0.001, "paper, table 3 (batch normalisation)"))
)
_WEIGHTS = PublishedWeights(
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", head="classifier.6.", stem="features.0.weight"
)


def build(name: str, channels: int, classes: int, image_size: int) -> nn.Module:
    """Make `alexnet` or `alexnet-bn`; adaptive pooling takes any size from 63 pixels."""
    from torch import nn
    from torchvision.models import alexnet

    network: nn.Module = alexnet(weights=None, num_classes=classes)
    features = network.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, kernel_size=11, stride=4, padding=2)
    if _feature_side(image_size) == 6:
        # Pooling 6x6 to 6x6 is the identity, but its backward pass is not deterministic on CUDA.
        network.avgpool = nn.Identity()
    if name == "alexnet-bn":
        network.features = with_batch_norm(features)
    return network


def _feature_side(image_size: int) -> int:
    """Return the side of the last feature map: a convolution of stride 4 and three poolings of stride 2."""
    side = (image_size + 4 - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side


def with_batch_norm(features: nn.Sequential) -> nn.Sequential:
    """Put a BatchNorm2d behind every convolution.

    The layers keep their names ("0", "3", …), so that published convolution weights still load by key; the new
    ones are called "0_bn", "3_bn", ….
    """
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for key, layer in features.named_children():
        layers[key] = layer
        if isinstance(layer, nn.Conv2d):
            layers[f"{key}_bn"] = nn.BatchNorm2d(layer.out_channels)
    return nn.Sequential(layers)


ARCHITECTURES = (
    Architecture("alexnet", build, 63, (_EXACT, _INTENDED, _BALANCING, _BATCH_NORM), _WEIGHTS),
    Architecture("alexnet-bn", build, 63, (_BN_EXACT, _BN_INTENDED, _BATCH_NORM), _WEIGHTS),
)
