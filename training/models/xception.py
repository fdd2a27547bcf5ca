"""Xception (Chollet 2017) of the `pretrainedmodels` package, for any image from 96 pixels."""

from torch import nn


def build(name: str, channels: int, classes: int, image_size: int) -> nn.Module:
    """Make an Xception; its head is called `last_linear`, and global pooling takes any size from 96."""
    # Imported here: the package is unmaintained and drags in six and munch, which only this network needs.
    from pretrainedmodels.models.xception import xception

    network: nn.Module = xception(num_classes=classes, pretrained=None)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 32, kernel_size=3, stride=2, padding=0, bias=False)
    return network
