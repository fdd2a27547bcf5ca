"""ResNet18-152 of torchvision, with the CIFAR stem as a switch for images used at their native 28 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.models.architecture import Architecture, PublishedWeights, Recipe, Setting, Switch, with_intended_jitter

if TYPE_CHECKING:
    from torch import nn

_RESNET = "paper, ResNet experiments (figure 8, table 4)"
_PAPER = Recipe(
    "paper",
    "Adagrad, 224 pixels, statistics of the training rows, 200 epochs with early stopping.",
    {
        "optimizer": Setting("adagrad", _RESNET),
        "lr": Setting(0.0005, _RESNET),
        "batch_size": Setting(64, _RESNET),
        "epochs": Setting(200, _RESNET),
        "patience": Setting(20, _RESNET),
        "scheduler": Setting("plateau", _RESNET),
        "plateau_factor": Setting(0.25, _RESNET),
        "plateau_patience": Setting(8, _RESNET),
        "image_size": Setting(224, _RESNET),
        "statistics": Setting("dataset", _RESNET),
        "balance": Setting(True, "paper, table 1"),
    },
    note="The paper trained on the pooled protocol (its Kaggle file); by default the file's own splits are used, "
    "--protocol pooled is the paper's.",
)
_RECIPES = with_intended_jitter(_PAPER)
# torchvision's IMAGENET1K_V1, what `pretrained=True` meant when the paper was written, by the start of its SHA-256.
_HASHES = {18: "f37072fd", 34: "b627a593", 50: "0676ba61", 101: "63fe2227", 152: "394f9c45"}
_CIFAR_STEM = Switch(False, "A 3x3 stem of stride 1 without max-pooling, for native 28 pixels (He et al. 2016, 4.2).")


def build(name: str, channels: int, classes: int, image_size: int, cifar_stem: bool = False) -> nn.Module:
    """Make a ResNet; `cifar_stem` is a 3x3 convolution of stride 1 without max-pooling (He et al. 2016, 4.2)."""
    from torch import nn
    from torchvision import models

    network: nn.Module = getattr(models, name)(weights=None, num_classes=classes)
    if cifar_stem:
        network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    if cifar_stem or channels != 3:
        stem = network.get_submodule("conv1")
        assert isinstance(stem, nn.Conv2d)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return network


ARCHITECTURES = tuple(
    Architecture(
        f"resnet{depth}",
        build,
        min_size=28,
        recipes=_RECIPES,
        weights=PublishedWeights(
            f"https://download.pytorch.org/models/resnet{depth}-{digest}.pth", head="fc.", stem="conv1.weight"
        ),
        switches={"cifar_stem": _CIFAR_STEM},
    )
    for depth, digest in _HASHES.items()
)
