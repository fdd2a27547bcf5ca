"""The random numbers of augmentation, drawn on the CPU for many images at once, and what they make of each image.

Flows in: a policy and a generator. Flows out: one float32 block (rows, columns) that holds for every image the
matrices and kernels that `augment` applies; so a seed means the same on every device and for every number of
processes, and a step finds its numbers on the device.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from training.policies import Policy

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision and Pillow
# Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001), a row each.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
MIX_ALPHA = {"mixup": 0.2, "cutmix": 1.0}  # of the beta distribution (Zhang et al. 2018, Yun et al. 2019)


@dataclass(frozen=True)
class Sample:
    """The random numbers of many images: masks (rows,) of those that a transform is applied to, and its parameters.

    Parameters are (rows,), two an image for `shifts` and `cutout_centre`, three for what is a channel's or a stain's
    own.
    """

    horizontal_flip: torch.Tensor
    vertical_flip: torch.Tensor
    transpose: torch.Tensor
    rotate: torch.Tensor
    jitter: torch.Tensor
    stain: torch.Tensor
    density: torch.Tensor
    channel: torch.Tensor
    blur: torch.Tensor
    cutout: torch.Tensor
    degrees: torch.Tensor
    scales: torch.Tensor
    shifts: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    gains: torch.Tensor
    density_factors: torch.Tensor
    density_offsets: torch.Tensor
    channel_gains: torch.Tensor
    channel_offsets: torch.Tensor
    sigma: torch.Tensor
    cutout_centre: torch.Tensor


def sample(policy: Policy, rows: int, generator: torch.Generator) -> Sample:
    """Draw the random numbers of `rows` images."""
    masks = [item.name for item in fields(Sample)][:10]
    chosen = torch.rand(len(masks), rows, generator=generator)
    values = torch.rand(7, rows, generator=generator) * 2 - 1
    triples = torch.rand(5, rows, 3, generator=generator) * 2 - 1
    pairs = torch.rand(2, rows, 2, generator=generator) * 2 - 1
    low, high = policy.scale
    return Sample(
        **{name: chosen[index] < getattr(policy, name) for index, name in enumerate(masks)},
        degrees=values[0] * policy.degrees,
        brightness=1 + values[1] * policy.strength,
        contrast=1 + values[2] * policy.strength,
        saturation=1 + values[3] * policy.strength,
        hue=values[4] * policy.hue,
        scales=low + (values[5] + 1) / 2 * (high - low),
        sigma=(values[6] + 1) / 2 * policy.blur_sigma,
        gains=1 + triples[0] * policy.gain,
        density_factors=1 + triples[1] * policy.density_factor,
        density_offsets=triples[2] * policy.density_offset,
        channel_gains=1 + triples[3] * policy.channel_gain,
        channel_offsets=triples[4] * policy.channel_offset,
        shifts=pairs[0] * policy.shift,
        cutout_centre=pairs[1],
    )


@dataclass(frozen=True)
class Layout:
    """Which numbers an image needs, in which columns of the block.

    `policy` None is no augmentation, `mix` is `none`, `mixup` or `cutmix`; images have `channels` 1 or 3 and are
    squares of `size` pixels. What no image of the policy needs takes no column and no operation.
    """

    policy: Policy | None
    channels: int
    size: int
    mix: str = "none"
    mix_alpha: float | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each part for one image, in the order of the columns.

        `pose` maps coordinates of the output to those of the input; `density` (factor | offset) and `colour` (factor
        of the pixel | factor of the image's mean | offset) are affine maps of the channels; `hue` are the three
        offsets of the HSV formula; `blur` is a kernel; `cutout` and `mix` are a square (x, y, half the side) and the
        latter's share of the image itself.
        """
        channels, policy, shapes = self.channels, self.policy, dict[str, tuple[int, ...]]()
        if policy is not None:
            colour, moves = channels == 3, policy.scale != (1.0, 1.0) or policy.shift
            if moves or policy.horizontal_flip or policy.vertical_flip or policy.transpose or policy.rotate:
                shapes["pose"] = (2, 3)
            if colour and policy.density:
                shapes["density"] = (3, 4)
            if policy.jitter or policy.channel or (colour and policy.stain):
                shapes["colour"] = (channels, 2 * channels + 1)
            if colour and policy.jitter and policy.hue:
                shapes["hue"] = (3,)
            if policy.blur:
                shapes["blur"] = (2 * math.ceil(2 * policy.blur_sigma) + 1,)
            if policy.cutout:
                shapes["cutout"] = (3,)
        if self.mix != "none":
            shapes["mix"] = (4,)
        return shapes

    @property
    def columns(self) -> int:
        """Numbers an image."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parts of a block (rows, columns) by name, as views of it."""
        shapes = self.shapes
        widths = [math.prod(shape) for shape in shapes.values()]
        parts = torch.split(block, widths, dim=1) if widths else ()
        return {name: part.view(-1, *shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def draw(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Return the block of `rows` images (rows, columns) float32."""
        parts: dict[str, torch.Tensor] = {}
        if self.policy is not None:
            parts |= self.parameters(sample(self.policy, rows, generator))
        if self.mix != "none":
            parts["mix"] = self._mix(rows, generator)
        columns = [parts[name].float().flatten(1) for name in self.shapes]
        return torch.cat(columns, dim=1) if columns else torch.empty(rows, 0)

    def parameters(self, sampled: Sample) -> dict[str, torch.Tensor]:
        """Return what random numbers make of each image, by the names of `shapes`, in float64."""
        makers = {
            "pose": pose,
            "density": density,
            "colour": self._colour,
            "hue": hue,
            "blur": self._blur,
            "cutout": self._cutout,
        }
        return {name: makers[name](sampled) for name in self.shapes if name in makers}

    def identity(self) -> dict[str, torch.Tensor]:
        """Return the parts of an image that stays as it is, each (1, …) float32."""
        identity = {
            "pose": torch.eye(3)[:2],
            "density": torch.eye(4)[:3],
            "colour": torch.eye(2 * self.channels + 1)[: self.channels],
            "hue": hue_offsets(torch.zeros(1))[0].float(),
            "cutout": torch.tensor([0.0, 0.0, -1.0]),
        }
        if "blur" in self.shapes:
            identity["blur"] = torch.zeros(self.shapes["blur"])
            identity["blur"][len(identity["blur"]) // 2] = 1
        return {name: identity[name].unsqueeze(0) for name in self.shapes if name in identity}

    def _colour(self, sampled: Sample) -> torch.Tensor:
        """Jitter, then the stain's gain, then the channel's gain and offset, as one map.

        Brightness, contrast and saturation commute as long as nothing is clamped in between; only the result is.
        """
        rows, channels = len(sampled.jitter), self.channels
        luma = torch.tensor(LUMA if channels == 3 else (1.0,), dtype=torch.float64)
        grey = luma.expand(channels, channels)
        brightness, contrast, saturation = (
            torch.where(sampled.jitter, values.double(), 1).view(-1, 1, 1)
            for values in (sampled.brightness, sampled.contrast, sampled.saturation)
        )
        eye = torch.eye(channels, dtype=torch.float64)
        pixel = brightness * contrast * (saturation * eye + (1 - saturation) * grey)
        mean = brightness * (1 - contrast) * grey
        offset = torch.zeros(rows, channels, 1, dtype=torch.float64)
        if channels == 3:
            gains = torch.where(sampled.stain[:, None], sampled.gains.double(), 1).unsqueeze(2)
            pixel, mean, offset = gains * pixel, gains * mean, gains * offset + 1 - gains
        gains = torch.where(sampled.channel[:, None], sampled.channel_gains.double(), 1)[:, :channels, None]
        moved = torch.where(sampled.channel[:, None], sampled.channel_offsets.double(), 0)[:, :channels, None]
        return torch.cat([gains * pixel, gains * mean, gains * offset + moved], dim=2)

    def _blur(self, sampled: Sample) -> torch.Tensor:
        """Gaussian kernels, cut off at two of the largest standard deviation."""
        reach = self.shapes["blur"][0] // 2
        places = torch.arange(-reach, reach + 1, dtype=torch.float64)
        sigma = torch.where(sampled.blur, sampled.sigma.double(), 0).clamp_min(1e-3)
        kernels = torch.exp(-0.5 * (places / sigma.unsqueeze(1)) ** 2)
        return kernels / kernels.sum(dim=1, keepdim=True)

    def _cutout(self, sampled: Sample) -> torch.Tensor:
        assert self.policy is not None
        centre = torch.where(sampled.cutout[:, None], sampled.cutout_centre.double(), 0)
        half = torch.where(sampled.cutout, self.policy.cutout_side, -1.0).double()
        return torch.cat([centre, half.unsqueeze(1)], dim=1)

    def _mix(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Return each image's share of itself, and for cutmix the square that its partner fills."""
        alpha = self.mix_alpha or MIX_ALPHA[self.mix]
        seed = int(torch.randint(2**62, (1,), generator=generator))
        share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, rows))
        square = torch.zeros(rows, 3, dtype=torch.float64)
        if self.mix == "cutmix":
            centre = torch.rand(rows, 2, generator=generator, dtype=torch.float64) * 2 - 1
            square = torch.cat([centre, (1 - share).sqrt().unsqueeze(1)], dim=1).float()
            inside = (centres(self.size) - square[:, :2, None]).abs() < square[:, 2:, None]
            share = 1 - inside.sum(dim=2).prod(dim=1) / self.size**2  # of the pixels, at the border too
        return torch.cat([square.double(), share.unsqueeze(1).double()], dim=1)


def centres(size: int) -> torch.Tensor:
    """Return the coordinates (size,) of pixel centres along one axis, from -1 to 1 at the borders."""
    return (2 * torch.arange(size) + 1) / size - 1


def pose(sampled: Sample) -> torch.Tensor:
    """Return the affine maps (rows, 2, 3) from output to input coordinates: flips, transposition, then the rest."""
    rows = len(sampled.rotate)

    def matrix(*entries: torch.Tensor | float) -> torch.Tensor:
        columns = [torch.as_tensor(entry, dtype=torch.float64).expand(rows) for entry in entries]
        return torch.stack(columns, dim=1).view(rows, 2, 2)

    flip = [1 - 2 * mask.double() for mask in (sampled.horizontal_flip, sampled.vertical_flip)]
    transposed, angle = sampled.transpose.double(), torch.deg2rad(sampled.degrees.double()) * sampled.rotate
    cos, sin, scale = torch.cos(angle), torch.sin(angle), 1 / sampled.scales.double().view(-1, 1, 1)
    flips = matrix(flip[0], 0.0, 0.0, flip[1])
    transpose = matrix(1 - transposed, transposed, transposed, 1 - transposed)
    linear = flips @ transpose @ matrix(cos, -sin, sin, cos) * scale
    moved = linear @ (-2 * sampled.shifts.double()).unsqueeze(2)  # the whole width is 2
    return torch.cat([linear, moved], dim=2)


def density(sampled: Sample) -> torch.Tensor:
    """Return the maps (rows, 3, 4) of ln(red, green, blue) that scale and move each stain's density.

    With R the stains' densities, a row each: ln x' = Rᵀ F R⁻ᵀ ln x - ln(10) Rᵀ o, for factors F and offsets o.
    """
    stains = torch.tensor(STAINS, dtype=torch.float64).T
    chosen = sampled.density[:, None]
    factors = torch.where(chosen, sampled.density_factors.double(), 1)
    offsets = torch.where(chosen, sampled.density_offsets.double(), 0)
    linear = stains @ torch.diag_embed(factors) @ torch.linalg.inv(stains)
    # Exactly nothing for those that are not chosen, which rounding would not give.
    linear = torch.where(chosen[:, None], linear, torch.eye(3, dtype=torch.float64))
    return torch.cat([linear, -math.log(10) * (stains @ offsets.unsqueeze(2))], dim=2)


def hue(sampled: Sample) -> torch.Tensor:
    """Return the offsets (rows, 3) of the HSV formula, the shift where it is chosen added."""
    return hue_offsets(torch.where(sampled.jitter, sampled.hue.double(), 0))


def hue_offsets(shift: torch.Tensor) -> torch.Tensor:
    """Return 5, 3, 1 for red, green, blue, plus six times the shift (rows,) of the circle: (rows, 3)."""
    return torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64) + 6 * shift.unsqueeze(1)
