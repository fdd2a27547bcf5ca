"""The module that is exported: members side by side, views averaged, softmax, weighted mean, temperature."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from export.explain import Explained
from training.models.classifier import Classifier
from xtrain.errors import ExportError

# Probabilities are clamped to it before the logarithm; well inside float32's normal range.
SMALLEST = 1e-30
# A heatmap whose largest value is below it is not scaled up to 1: nothing in the image is evidence for the class.
SMALLEST_MAXIMUM = 1e-3
VIEWS = 8  # of the dihedral group: four quarter turns, each also mirrored


class Ensemble(nn.Module):
    """Uint8 images (N, H, W, C) to calibrated probabilities (N, classes), and a heatmap (N, 1, H, W) if asked for.

    One member is the single model. Each keeps its own size and statistics, but what members share, the resized and
    the normalised images, is computed once.
    """

    def __init__(
        self,
        members: Sequence[Classifier],
        weights: Sequence[float] | None = None,
        *,
        tta: bool = False,
        explain: bool = False,
    ) -> None:
        """Put members together.

        Args:
            members: of the same classes and native shape.
            weights: their shares of the mean, positive, of sum 1; None is equal ones.
            tta: average over the eight dihedral views; images must be square.
            explain: also return the heatmap.

        Raises:
            ExportError: `tta` for images that are not square, or `explain` for an unknown kind of network.
        """
        super().__init__()
        height, width, _ = members[0].spec.shape
        if tta and height != width:
            raise ExportError(f"--tta dihedral: quarter turns need square images, not {height}x{width}; leave it out")
        self.members = nn.ModuleList(members)
        self.explained = nn.ModuleList([Explained(member.network) for member in members]) if explain else None
        self.weights = list(weights or [1 / len(members)] * len(members))
        self.native = (height, width)
        self.tta = tta
        self.half_precision = False
        self.temperature: float | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities of raw images; with `explain` also the heatmap of each image's top class, in [0, 1]."""
        if self.explained is None:
            return self.combine(self.member_probabilities(images))
        explained = [cast(Explained, part) for part in self.explained]
        outputs = [part(one) for part, one in zip(explained, self._pixels(images), strict=True)]
        probabilities = self.combine(self._average([logits for logits, _, _ in outputs]))
        top = probabilities.argmax(dim=1)
        if self.tta:
            top = top.repeat(VIEWS)
        total = torch.zeros((), device=top.device)
        for weight, member, part, (_, maps, inputs) in zip(
            self.weights, self.classifiers, explained, outputs, strict=True
        ):
            resized = _scaled(self._resized_maps(part.heatmap(maps, inputs, top)[:, None], member))
            total = total + weight * (undo_dihedral(resized) if self.tta else resized)
        return probabilities, _scaled(total)

    def member_probabilities(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return each member's own probabilities (N, classes), averaged over the views."""
        pixels = zip(self.classifiers, self._pixels(images), strict=True)
        return self._average([member.network(one) for member, one in pixels])

    @property
    def classifiers(self) -> list[Classifier]:
        """The members by their own type, which a ModuleList forgets."""
        return [cast(Classifier, member) for member in self.members]

    def halve(self) -> None:
        """Let the networks compute in float16; pixels, softmax, means and heatmaps stay float32."""
        self.half_precision = True
        for member in self.classifiers:
            member.network.half()

    def combine(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted mean of members' probabilities, each (N, classes), then the temperature.

        The temperature divides log-probabilities (Guo et al. 2017, section 4.2, whose logits they are up to a
        constant an image); the order of an image's classes stays.
        """
        mean = parts[0]
        if len(parts) > 1:
            mean = torch.stack([part * weight for part, weight in zip(parts, self.weights, strict=True)]).sum(dim=0)
        if self.temperature is None:
            return mean
        return (mean.clamp_min(SMALLEST).log() / self.temperature).softmax(dim=1)

    def _pixels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return every member's input, (views x N, C, S, S), the same tensor for members that agree in it."""
        views = dihedral(images) if self.tta else images
        resized: dict[tuple[int, int | None], torch.Tensor] = {}
        ready: dict[tuple[object, ...], torch.Tensor] = {}
        inputs = []
        for member in self.classifiers:
            spec, step = member.spec, member.preprocess
            size = (spec.image_size, spec.crop)
            key = (*size, spec.mean, spec.std)
            if size not in resized:
                resized[size] = step.resize(views)
            if key not in ready:
                ready[key] = step.normalise(resized[size])
            inputs.append(ready[key].half() if self.half_precision else ready[key])
        return inputs

    def _resized_maps(self, maps: torch.Tensor, member: Classifier) -> torch.Tensor:
        """Resize maps (N, 1, h, w) of a member's input to the native image; what it cropped away is 0."""
        size, crop = member.spec.image_size, member.spec.crop
        if crop is not None and crop != size:
            edge = (size - crop) // 2
            seen = F.interpolate(maps, size=(crop, crop), mode="bilinear")
            maps = F.pad(seen, (edge, size - crop - edge) * 2)
        return F.interpolate(maps, size=self.native, mode="bilinear")

    def _average(self, logits: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return each member's probabilities (N, classes), the mean of the views'."""
        parts = [values.float().softmax(dim=1) for values in logits]
        if self.tta:
            parts = [part.reshape(VIEWS, -1, part.shape[1]).mean(dim=0) for part in parts]
        return parts


def dihedral(images: torch.Tensor) -> torch.Tensor:
    """Return all eight views of images (N, H, W, C), view by view: (8 x N, H, W, C)."""
    turned = [images.rot90(turns, (1, 2)) for turns in range(4)]
    return torch.cat([*turned, *(view.flip(2) for view in turned)])


def undo_dihedral(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean (N, 1, H, W) of the views' maps (8 x N, 1, H, W), each turned back to the image it is of."""
    views = maps.reshape(VIEWS, -1, *maps.shape[1:])
    upright = [views[turns] for turns in range(4)] + [views[4 + turns].flip(3) for turns in range(4)]
    return torch.stack([view.rot90(-(index % 4), (2, 3)) for index, view in enumerate(upright)]).mean(dim=0)


def _scaled(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map (N, 1, h, w) by its largest value."""
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(SMALLEST_MAXIMUM)
