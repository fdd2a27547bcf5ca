"""AlexNet of torchvision, and the same with a BatchNorm behind each of its five convolutions.

The paper's own batch-norm variant inserted none and lost the last ReLU and MaxPool, so its finding that batch
normalisation has no effect was never tested; this one is the network the paper describes.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models import alexnet


def build(name: str, channels: int, classes: int, image_size: int) -> nn.Module:
    """Make `alexnet` or `alexnet-bn`; adaptive pooling takes any size from 63 pixels."""
    network: nn.Module = alexnet(weights=None, num_classes=classes)
    features = network.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, kernel_size=11, stride=4, padding=2)
    if name == "alexnet-bn":
        network.features = with_batch_norm(features)
    return network


def with_batch_norm(features: nn.Sequential) -> nn.Sequential:
    """Put a BatchNorm2d behind every convolution.

    The layers keep their names ("0", "3", …), so that published convolution weights still load by key; the new
    ones are called "0_bn", "3_bn", ….
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for key, layer in features.named_children():
        layers[key] = layer
        if isinstance(layer, nn.Conv2d):
            layers[f"{key}_bn"] = nn.BatchNorm2d(layer.out_channels)
    return nn.Sequential(layers)
