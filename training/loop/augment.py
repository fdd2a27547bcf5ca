"""Augmentation of whole batches on the device, each image with its own random draw.

Flows in: float images (N, C, S, S) in [0, 1], resized and not yet normalised, and the parts of their rows of the block
that `draw` made on the CPU. Nothing here depends on a value of a tensor where that would wait for the device, and no
tensor is made: a step is a fixed list of operations.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from training.loop.draw import Layout, centres

Parts = Mapping[str, torch.Tensor]
TINY = 1e-6  # below the smallest difference of two pixel values; keeps logarithms and quotients finite


class Augment:
    """Applies the parts of a layout; on the CPU only to the images that they change."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        """Put the coordinates of the pixels on the device."""
        self.layout = layout
        policy, size = layout.policy, layout.size
        self.mode, self.padding = ("bilinear", "reflection") if policy and policy.smooth else ("nearest", "zeros")
        x = centres(size).to(device)
        self.centres = x
        self.grid = torch.stack([x.repeat(size), x.repeat_interleave(size), torch.ones_like(x).repeat(size)], dim=1)
        self.changes: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "pose": self.move,
            "density": adjust_density,
            "colour": adjust_colour,
            "hue": adjust_hue,
            "blur": blur,
            "cutout": self.cut_out,
        }
        self.identity = layout.identity()

    def __call__(self, images: torch.Tensor, parts: Parts) -> torch.Tensor:
        """Transform `images` (N, C, S, S), in place where that saves a copy, and return them in [0, 1]."""
        for name, identity in self.identity.items():
            images = self._apply(images, parts[name], identity, self.changes[name])
        return images

    def mix(self, images: torch.Tensor, parts: Parts) -> torch.Tensor:
        """Mix each normalised image with the one before it in the batch (`mixup`, or a square of it, `cutmix`)."""
        if self.layout.mix == "none":
            return images
        partner = images.roll(1, dims=0)
        if self.layout.mix == "mixup":
            return torch.lerp(partner, images, parts["mix"][:, 3].view(-1, 1, 1, 1))
        return torch.where(self._inside(parts["mix"]), partner, images)

    def _apply(
        self,
        images: torch.Tensor,
        part: torch.Tensor,
        identity: torch.Tensor,
        change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        if images.device.type != "cpu":
            return change(images, part)
        indices = (part != identity).flatten(1).any(dim=1).nonzero().squeeze(1)
        if len(indices) == len(images):
            return change(images, part)
        if len(indices):
            images.index_copy_(0, indices, change(images.index_select(0, indices), part.index_select(0, indices)))
        return images

    def move(self, images: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Sample the images at the coordinates (N, 2, 3) of their poses."""
        size = self.layout.size
        grid = torch.matmul(self.grid, pose.transpose(1, 2)).view(-1, size, size, 2)
        return F.grid_sample(images, grid, mode=self.mode, padding_mode=self.padding, align_corners=False)

    def cut_out(self, images: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """Fill the squares (N, 3) with the mean colour of their image."""
        return torch.where(self._inside(square), images.mean(dim=(2, 3), keepdim=True), images)

    def _inside(self, square: torch.Tensor) -> torch.Tensor:
        """Return whether a pixel lies in the square (x, y, half the side) of its image, (N, 1, S, S) bool."""
        near = (self.centres - square[:, :2, None]).abs() < square[:, 2:3, None]
        return (near[:, 0, None, :] & near[:, 1, :, None]).unsqueeze(1)


def adjust_density(images: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Apply the affine maps (N, 3, 4) to the logarithms of the channels; stains add up there (Beer-Lambert)."""
    logarithms = images.clamp_min(1 / 512).log().flatten(2)
    return torch.baddbmm(density[:, :, 3:], density[:, :, :3], logarithms).exp().clamp(0, 1).view_as(images)


def adjust_colour(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Apply the affine maps (N, C, 2C + 1) of a pixel's channels and of the image's mean."""
    channels = images.shape[1]
    pixels = images.flatten(2)
    offset = torch.baddbmm(colour[:, :, -1:], colour[:, :, channels:-1], pixels.mean(dim=2, keepdim=True))
    return torch.baddbmm(offset, colour[:, :, :channels], pixels).clamp(0, 1).view_as(images)


def adjust_hue(images: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Shift the hue by offsets (N, 3) in sixths of the circle, keeping HSV saturation and value.

    A channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (offset + hue in sixths) mod 6.
    """
    value, largest = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    around = torch.cat([images, images[:, :2]], dim=1)
    difference = (around[:, 1:4] - around[:, 2:5]).gather(1, largest)  # of the two channels after the largest
    sixths = torch.add(difference / chroma.clamp_min(TINY), largest, alpha=2)
    k = torch.remainder(sixths + offsets[:, :, None, None], 6)
    return torch.addcmul(value, chroma, torch.minimum(k, 4 - k).clamp(0, 1), value=-1)


def blur(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Convolve each image with its kernel (N, K) along both axes; its mirror image goes on beyond the border."""
    rows, channels, height, width = images.shape
    taps = kernels.shape[1]
    weights = kernels.repeat_interleave(channels, dim=0).unsqueeze(1)
    reach = [taps // 2] * 4
    padded = F.pad(images.reshape(1, rows * channels, height, width), reach, mode="reflect")
    across = F.conv2d(padded, weights.unsqueeze(2), groups=rows * channels)
    return F.conv2d(across, weights.unsqueeze(3), groups=rows * channels).view_as(images)
