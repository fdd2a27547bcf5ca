"""The heatmap: Grad-CAM in closed form, so that an inference runtime without gradients can compute it.

Grad-CAM (Selvaraju et al. 2017, eq. 1 and 2) weights each feature map A_k by its mean gradient
alpha_k = 1/Z sum_ij dy_c / dA_kij and keeps the positive part of sum_k alpha_k A_k. Every network here ends in
pooling and linear layers with ReLU between them, so the gradient is a product of weight matrices and masks. Pooling
hands the whole gradient of an output on to the inputs of its window, whichever they are, so the sum over positions
in front of it equals the sum behind it. After global average pooling and one linear layer alpha_k is the weight
w_kc, which is the class activation map (Zhou et al. 2016).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import AlexNet, MobileNetV2, ResNet

from training.models.dropout import ByteDropout
from training.models.efficientnet import EfficientNetLite
from xtrain.errors import ExportError


class Explained(nn.Module):
    """A network taken apart at its last feature maps.

    `trunk` gives the maps (N, K, h, w), `pool` condenses them, `layers` turn the flattened rest into logits.
    """

    def __init__(self, network: nn.Module) -> None:
        """Share the layers of `network`.

        Raises:
            ExportError: the end of the network is not one whose gradient is known in closed form.
        """
        super().__init__()
        trunk, self.pool, layers = take_apart(network)
        self.trunk, self.layers = trunk, nn.ModuleList(layers)
        for layer in layers:
            if not isinstance(layer, nn.Linear | nn.ReLU | nn.BatchNorm1d | nn.Dropout | ByteDropout):
                raise ExportError(
                    f"--explain: no closed form is known for a {type(layer).__name__} behind the feature maps; "
                    "export without --explain"
                )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return logits (N, classes), feature maps (N, K, h, w), and the input of each of `layers`."""
        maps = self.trunk(pixels)
        values, inputs = self.pool(maps).flatten(1), []
        for layer in self.layers:
            inputs.append(values)
            values = layer(values)
        return values, maps, inputs

    def heatmap(self, maps: torch.Tensor, inputs: Sequence[torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
        """Return Grad-CAM (N, h, w), not negative, of one class (N,) an image; not yet scaled.

        The mean of the gradient is left a sum: it differs by a constant factor, and in a global average pool the
        factor is what makes the map's mean the class's logit without its bias.
        """
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        gradient = last.weight.index_select(
            0, classes
        ).float()  # float16 would overflow and vanish in products of matrices
        for layer, value in zip(reversed(self.layers[:-1]), reversed(inputs[:-1]), strict=True):
            if isinstance(layer, nn.Linear):
                gradient = gradient @ layer.weight.float()
            elif isinstance(layer, nn.ReLU):
                gradient = gradient * (value > 0)
            elif isinstance(layer, nn.BatchNorm1d):
                assert layer.running_var is not None
                gradient = gradient * (layer.weight.float() * torch.rsqrt(layer.running_var.float() + layer.eps))
        alpha = gradient.reshape(gradient.shape[0], maps.shape[1], -1).sum(dim=2)
        return F.relu((alpha[:, :, None, None] * maps.float()).sum(dim=1))


def take_apart(network: nn.Module) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    """Return the layers up to the last feature maps, the pooling, and the layers behind it.

    Raises:
        ExportError: a network of an unknown kind.
    """
    if isinstance(network, ResNet):
        stem = [network.conv1, network.bn1, network.relu, network.maxpool]
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        return nn.Sequential(*stem, *stages), network.avgpool, [network.fc]
    if isinstance(network, AlexNet) or (isinstance(network, nn.Sequential) and hasattr(network, "features")):
        features, head = network.get_submodule("features"), network.get_submodule("classifier")
        stages = list(features.children())
        last = max(index for index, layer in enumerate(stages) if isinstance(layer, nn.MaxPool2d))
        pool = nn.Sequential(*stages[last:])
        if isinstance(network, AlexNet):
            pool.append(network.avgpool)
        return nn.Sequential(*stages[:last]), pool, [head] if isinstance(head, nn.Linear) else list(head.children())
    if isinstance(network, EfficientNetLite):
        stem, head = [network.conv_stem, network.bn0], [network.conv_head, network.bn1]
        trunk = nn.Sequential(*stem, network.relu, network.blocks, *head, network.relu)
        return trunk, network.pool, [network.dropout, network.fc]
    if isinstance(network, MobileNetV2):
        return network.features, nn.AdaptiveAvgPool2d(1), list(network.classifier.children())
    if type(network).__name__ == "Xception":  # of pretrainedmodels, which is imported only where it is built
        return _XceptionTrunk(network), nn.AdaptiveAvgPool2d(1), [network.get_submodule("last_linear")]
    raise ExportError(f"--explain: {type(network).__name__} has no known feature maps; export without --explain")


class _XceptionTrunk(nn.Module):
    """Xception up to the ReLU in front of its global pooling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = cast(Any, self.network).features(pixels)
        return F.relu(maps)
