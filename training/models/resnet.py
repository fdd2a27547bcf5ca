"""ResNet18-152 of torchvision, with the CIFAR stem as an option for images used at their native 28 pixels."""

from torch import nn
from torchvision import models


def build(name: str, channels: int, classes: int, image_size: int, cifar_stem: bool = False) -> nn.Module:
    """Make a ResNet; `cifar_stem` is a 3x3 convolution of stride 1 without max-pooling (He et al. 2016, 4.2)."""
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
