"""Xception (Chollet 2017) of the `pretrainedmodels` package, for any image from 96 pixels."""

from __future__ import annotations

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

_XCEPTION = "paper, Xception experiments"
_PAPER = Recipe(
    "paper",
    "AdamW, 168 pixels, ImageNet statistics.",
    {
        "optimizer": Setting("adamw", _XCEPTION),
        "lr": Setting(0.001, _XCEPTION),
        "batch_size": Setting(32, _XCEPTION),
        "epochs": Setting(200, OURS + ", as for the ResNets: early stopping comes first"),
        "patience": Setting(7, _XCEPTION),
        "scheduler": Setting("plateau", "authors' code"),
        "plateau_factor": Setting(0.25, "paper, ResNet experiments"),
        "plateau_patience": Setting(4, OURS + ": below the early-stop patience of 7"),
        "image_size": Setting(168, _XCEPTION),
        "statistics": Setting("imagenet", _XCEPTION),
        "balance": Setting(True, "paper, table 1"),
    },
    note="The published weights expect a mean and standard deviation of 0.5 a channel; the paper used ImageNet's. "
    "--statistics pretrained is what the weights expect.",
)
_EXACT, _INTENDED = with_intended_jitter(_PAPER)
_299 = _EXACT.derive(
    "paper-xception-299",
    "As paper at 299 pixels, the size the published weights were trained at.",
    _PAPER.note,
    image_size=Setting(299, _XCEPTION),
)
# The file of Cadene's release that `pretrainedmodels` points to; its own host's certificate is expired.
_WEIGHTS = PublishedWeights(
    "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-cadene/xception-43020ad28.pth",
    head="fc.",
    stem="conv1.weight",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def build(name: str, channels: int, classes: int, image_size: int) -> nn.Module:
    """Make an Xception; its head is called `last_linear`, and global pooling takes any size from 96."""
    # Imported here: the package is unmaintained and drags in six and munch, which only this network needs.
    from pretrainedmodels.models.xception import xception
    from torch import nn

    network: nn.Module = xception(num_classes=classes, pretrained=None)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 32, kernel_size=3, stride=2, padding=0, bias=False)
    return network


ARCHITECTURES = (Architecture("xception", build, 96, (_EXACT, _INTENDED, _299), _WEIGHTS),)
