"""A run, or an ensemble, as a model of WSInfer, which classifies whole slides, also inside QuPath.

FOLDER/torchscript_model.pt   takes float32 (N, 3, H, W) in [0, 1], gives logits (N, classes)
FOLDER/config.json            classes, the patch's pixels and micrometres a pixel, and its transforms
FOLDER/README.md              the model card

The schema is `model-config.schema.json` of SBU-BMI/wsinfer-zoo. Resizing to the networks' sizes, normalisation,
temperature and averaging are inside the model; WSInfer's softmax over the logits gives the calibrated probabilities.
"""

import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.graph import SMALLEST, Ensemble
from export.verify import Gate
from xtrain.errors import ConfigError, ExportError

MODEL, CONFIG = "torchscript_model.pt", "config.json"
BATCH = 64
DATE = (1980, 1, 1, 0, 0, 0)  # of every member of the archive, the first one that a zip can hold


class Patches(nn.Module):
    """The ensemble behind WSInfer's input and output."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) of images (N, 3, H, W) float32, the bytes of a patch divided by 255."""
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        result = self.ensemble(pixels)
        probabilities: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return probabilities.clamp_min(SMALLEST).log()


def check(shape: tuple[int, int, int], classes: tuple[str, ...], spacing: float | None) -> None:
    """Refuse what WSInfer cannot use, before anything is computed.

    Raises:
        ConfigError: grey or not square images, one class, or no spacing.
    """
    height, width, channels = shape
    if channels != 3 or height != width:
        raise ConfigError(f"--wsinfer: patches are square and in colour, not {height}x{width}x{channels}")
    if len(classes) < 2:
        raise ConfigError("--wsinfer: one class always has the probability 1")
    if spacing is None:
        raise ConfigError("--wsinfer needs --spacing-um, the micrometres a pixel of the training images as stored")


def write(ensemble: Ensemble, shape: tuple[int, int, int], configuration: dict[str, object], folder: Path) -> None:
    """Write model and configuration.

    Args:
        ensemble: in float32, on the CPU, in evaluation mode.
        shape: native (H, W, C).
        configuration: `config.json`.
        folder: where; it exists and is empty.
    """
    height, width, channels = shape
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what WSInfer and QuPath load
        example = torch.rand(2, channels, height, width)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            Patches(ensemble).eval(), example, check_trace=False
        )
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    _strip(buffer, folder / MODEL)
    text = json.dumps(configuration, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def configuration(
    name: str, classes: tuple[str, ...], members: list[str], side: int, spacing: float
) -> dict[str, object]:
    """Return `config.json`.

    Args:
        name: of the model.
        classes: in their order.
        members: architectures.
        side: native pixels of a patch.
        spacing: micrometres a pixel.
    """
    # WSInfer cuts the patch's micrometres out of the slide in whatever pixels they are there.
    resize = {"name": "Resize", "arguments": {"size": side}}
    return {
        "spec_version": "1.0",
        "name": name,
        "architecture": " + ".join(dict.fromkeys(members)),
        "num_classes": len(classes),
        "class_names": list(classes),
        "patch_size_pixels": side,
        "spacing_um_px": spacing,
        "transform": [resize, {"name": "ToTensor"}],
    }


def verify(folder: Path, images: NDArray[np.uint8], expected: NDArray[np.float32], gate: Gate) -> float:
    """Return the largest difference between the saved model's probabilities and torch's.

    Args:
        folder: that was written.
        images: (N, H, W, C) uint8.
        expected: probabilities (N, classes).
        gate: what they may differ by.

    Raises:
        ExportError: they differ by more.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = torch.jit.load(folder / MODEL, map_location="cpu")  # type: ignore[no-untyped-call]
        parts = torch.split(torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255), BATCH)
        measured = torch.cat([model(part).softmax(dim=1) for part in parts]).numpy()
    difference = float(np.abs(measured - expected).max())
    if not difference <= gate.difference:
        raise ExportError(
            f"--wsinfer: the TorchScript differs from torch by {difference:.2e} (allowed {gate.difference:.0e}); "
            "nothing was written"
        )
    return difference


def _strip(saved: io.BytesIO, path: Path) -> None:
    """Write the archive without the stack traces of this machine, and without dates."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            if not member.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(member.filename, DATE), source.read(member))
