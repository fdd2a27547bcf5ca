"""Augmentation of whole batches on the device, each image with its own random draw.

All draws come from one CPU generator, so that a seed means the same on every device and nothing waits for a
GPU. Images are float (N, C, H, W) in [0, 1], resized and not yet normalised.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
Adjust = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Each of the paper's transforms happens with probability 0.1 (xAI-Proj-B 2024, augmentation experiments).
PROBABILITY = 0.1
ROTATION_DEGREES = 30.0
# The paper's ColorJitter() had no arguments and did nothing. These are the strengths it could have meant:
# brightness, contrast and saturation by up to a fifth, hue by up to a twentieth of the circle.
JITTER, HUE = 0.2, 0.05
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision and Pillow


def choose(name: str) -> Augment | None:
    """The augmentation of that name, None for `none`."""
    return {"none": None, "paper": augment_paper}[name]


def augment_paper(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The paper's flips, rotation and colour jitter, each with probability 0.1 an image; changes `images` in place."""
    changes = (_mirror, _turn_over, _rotate_randomly, _jitter_randomly)
    chosen = torch.rand(len(changes), len(images), generator=generator) < PROBABILITY
    for mask, change in zip(chosen, changes, strict=True):
        # The choice was made on the CPU: its indices are known without waiting for the device.
        indices = mask.nonzero().squeeze(1)
        if len(indices):
            there = indices.to(images.device, non_blocking=True)
            images.index_copy_(0, there, change(images.index_select(0, there), generator))
    return images


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate counter-clockwise about the centre by `degrees` (N,); nearest pixel, black outside.

    Agrees with torchvision's `v2.functional.rotate` on tensors.
    """
    height, width = images.shape[2:]
    angle = torch.deg2rad(degrees.double())
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # Output to input coordinates in units of half the side, hence the aspect ratios.
    matrix = torch.stack(
        [
            torch.stack([cos, -sin * height / width, zero], dim=1),
            torch.stack([sin * width / height, cos, zero], dim=1),
        ],
        dim=1,
    ).to(images.device, torch.float32)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply by `factor` (N,)."""
    return (images * _column(factor, images)).clamp(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the mean grey of each image: 0 is flat, 1 unchanged."""
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, _column(factor, images)).clamp(0, 1)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the grey version of each image: 0 is grey, 1 unchanged."""
    return torch.lerp(_grey(images), images, _column(factor, images)).clamp(0, 1)


def adjust_hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the hue by `turn` (N,) in units of the full circle, keeping HSV saturation and value."""
    value, argmax = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    red, green, blue = images.unbind(dim=1)
    sextants = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], dim=1)
    sextant = sextants.gather(1, argmax.unsqueeze(1)).squeeze(1)
    sextant = sextant + 6 * turn.to(images.device, images.dtype).view(-1, 1, 1)
    # f(n) of the HSV-to-RGB formula: value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + sextant) mod 6.
    channels = []
    for offset in (5, 3, 1):
        k = torch.remainder(offset + sextant, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _mirror(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images.flip(3)


def _turn_over(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images.flip(2)


def _rotate_randomly(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return rotate(images, _uniform(len(images), -ROTATION_DEGREES, ROTATION_DEGREES, generator))


def _jitter_randomly(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast, saturation and hue in an order drawn once a batch, by factors drawn for each image."""
    adjustments: list[tuple[Adjust, float, float]] = [
        (adjust_brightness, 1 - JITTER, 1 + JITTER),
        (adjust_contrast, 1 - JITTER, 1 + JITTER),
    ]
    if images.shape[1] == 3:  # a grey image has no colour to change
        adjustments += [(adjust_saturation, 1 - JITTER, 1 + JITTER), (adjust_hue, -HUE, HUE)]
    for index in torch.randperm(len(adjustments), generator=generator).tolist():
        adjust, low, high = adjustments[index]
        images = adjust(images, _uniform(len(images), low, high, generator))
    return images


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _column(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma (N, 1, H, W); a grey image is its own."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)
