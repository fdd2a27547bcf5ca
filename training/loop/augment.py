"""Augmentation of whole batches on the device, each image with its own random draw.

Flows in: float images (N, C, H, W) in [0, 1], resized and not yet normalised, and a `Sample` of random numbers
drawn on the CPU for the whole global batch; so a seed means the same on every device and for every number of
processes, and nothing waits for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from training.policies import Policy

Adjust = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision and Pillow


@dataclass(frozen=True)
class Sample:
    """The random numbers of one batch.

    Boolean masks (N,) of the images that each transform is applied to, and its parameters, (N,) or (N, 3); `order` is
    that of the four colour adjustments, one for the whole batch.
    """

    horizontal_flip: torch.Tensor
    vertical_flip: torch.Tensor
    transpose: torch.Tensor
    rotate: torch.Tensor
    jitter: torch.Tensor
    stain: torch.Tensor
    degrees: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    gains: torch.Tensor
    order: list[int]

    def shard(self, rank: int, world_size: int) -> "Sample":
        """Return the numbers of every `world_size`-th image from `rank` on."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Sample(**{key: value[rank::world_size] if key != "order" else value for key, value in values.items()})


def sample(policy: Policy, rows: int, generator: torch.Generator) -> Sample:
    """Draw the random numbers for a batch of `rows` images."""
    chosen = torch.rand(6, rows, generator=generator)
    values = torch.rand(5, rows, generator=generator) * 2 - 1
    gains = 1 + policy.gain * (torch.rand(rows, 3, generator=generator) * 2 - 1)
    return Sample(
        horizontal_flip=chosen[0] < policy.horizontal_flip,
        vertical_flip=chosen[1] < policy.vertical_flip,
        transpose=chosen[2] < policy.transpose,
        rotate=chosen[3] < policy.rotate,
        jitter=chosen[4] < policy.jitter,
        stain=chosen[5] < policy.stain,
        degrees=values[0] * policy.degrees,
        brightness=1 + values[1] * policy.strength,
        contrast=1 + values[2] * policy.strength,
        saturation=1 + values[3] * policy.strength,
        hue=values[4] * policy.hue,
        gains=gains,
        order=torch.randperm(4, generator=generator).tolist(),
    )


def augment(images: torch.Tensor, sampled: Sample) -> torch.Tensor:
    """Transform `images` (N, C, H, W) in place as sampled and return them; they must be square to be transposed."""

    def on(mask: torch.Tensor, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        # The choice was made on the CPU: its indices are known without waiting for the device.
        indices = mask.nonzero().squeeze(1)
        if len(indices):
            on_device = indices.to(images.device, non_blocking=True)
            images.index_copy_(0, on_device, change(images.index_select(0, on_device), indices))

    on(sampled.horizontal_flip, lambda part, _: part.flip(3))
    on(sampled.vertical_flip, lambda part, _: part.flip(2))
    on(sampled.transpose, lambda part, _: part.transpose(2, 3))
    on(sampled.rotate, lambda part, rows: rotate(part, sampled.degrees[rows]))
    colour = images.shape[1] == 3
    adjustments: list[tuple[Adjust, torch.Tensor]] = [
        (adjust_brightness, sampled.brightness),
        (adjust_contrast, sampled.contrast),
        (adjust_saturation, sampled.saturation),
        (adjust_hue, sampled.hue),
    ]

    def jitter(part: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        for index in sampled.order:
            adjust, values = adjustments[index]
            if colour or index < 2:  # a grey image has no colour to change
                part = adjust(part, values[rows])
        return part

    on(sampled.jitter, jitter)
    if colour:
        on(sampled.stain, lambda part, rows: adjust_channels(part, sampled.gains[rows]))
    return images


def adjust_channels(images: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """Multiply each colour's absorption, 1 - value, by its own factor (N, 3): more or less of a stain."""
    factor = gains.to(images.device, images.dtype, non_blocking=True).view(-1, 3, 1, 1)
    return (1 - (1 - images) * factor).clamp(0, 1)


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


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shift the hue by `shift` (N,) in units of the full circle, keeping HSV saturation and value."""
    value, argmax = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    red, green, blue = images.unbind(dim=1)
    sextants = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], dim=1)
    sextant = sextants.gather(1, argmax.unsqueeze(1)).squeeze(1)
    sextant = sextant + 6 * shift.to(images.device, images.dtype).view(-1, 1, 1)
    # f(n) of the HSV-to-RGB formula: value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + sextant) mod 6.
    channels = []
    for offset in (5, 3, 1):
        k = torch.remainder(offset + sextant, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _column(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Return the luma (N, 1, H, W); a grey image is its own."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)
