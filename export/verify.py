"""The gate: onnxruntime alone must answer as torch does, on real images, before a file takes its name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.model.card_parts import Parity
from xtrain.errors import ExportError

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Gate:
    """What a precision may differ by.

    Attributes:
        difference: of a probability.
        agreement: smallest share of images with the same top class.
        heatmap: of a heatmap's value, the mean over the image.
        tie: two classes whose probabilities lie closer than this cannot be told apart; their order means nothing.
    """

    difference: float
    agreement: float
    heatmap: float
    tie: float


GATES = {
    # Float32 sums in another order: what was measured over all architectures is below 1e-6.
    "fp32": Gate(1e-5, 1.0, 0.01, tie=2e-5),
    # Float16 numbers between 0.5 and 1 are 4.9e-4 apart.
    "fp16": Gate(5e-3, 0.999, 0.05, tie=1e-3),
}


def compare(
    expected: Probabilities, measured: Probabilities, labels: NDArray[np.integer], gate: Gate, provider: str
) -> Parity:
    """Compare onnxruntime's probabilities with torch's.

    Args:
        expected: torch's probabilities (N, classes), N at least 1.
        measured: the exported file's, of the same images.
        labels: of the first rows, those of the validation split.
        gate: what they may differ by.
        provider: where onnxruntime ran.

    Raises:
        ExportError: a difference above what is allowed, or other top classes, naming the worst image.
    """
    if not np.allclose(expected.sum(axis=1), 1, atol=1e-3):
        raise ExportError("torch's own probabilities do not sum to 1; the run is unusable, no file was written")
    difference = np.abs(measured - expected).max(axis=1)
    difference = np.where(np.isnan(difference), np.inf, difference)
    worst = int(difference.argmax())
    if difference[worst] > gate.difference:
        raise ExportError(
            f"onnxruntime and torch differ by {difference[worst]:.2e} on image {worst} "
            f"(allowed {gate.difference:.0e}); no file was written"
        )
    differing = measured.argmax(axis=1) != expected.argmax(axis=1)
    other = differing & ~_tied(expected, gate.tie)
    if 1 - float(other.mean()) < gate.agreement:
        row = int(np.flatnonzero(other)[0])
        raise ExportError(
            f"onnxruntime and torch name other top classes for {other.sum()} of {len(other)} images, the first is "
            f"image {row} (probabilities differ by {difference[row]:.2e}; equal classes needed: {gate.agreement:.1%}); "
            "no file was written"
        )
    rows = len(labels)
    return Parity(
        images=len(expected),
        max_difference=float(f"{difference[worst]:.2g}"),
        top_class_agreement=1 - float(differing.mean()),
        accuracy_torch=float((expected[:rows].argmax(axis=1) == labels).mean()),
        accuracy_onnxruntime=float((measured[:rows].argmax(axis=1) == labels).mean()),
        provider=provider,
    )


def compare_heatmaps(
    expected: tuple[Probabilities, NDArray[np.float32]],
    measured: tuple[Probabilities, NDArray[np.float32]],
    gate: Gate,
) -> None:
    """Compare heatmaps (N, H, W) with torch's where both name the same top class.

    The mean over an image counts: single pixels differ where a map is divided by a faint maximum.

    Args:
        expected: torch's probabilities and heatmaps of the first images.
        measured: the exported file's, of all images.
        gate: what they may differ by.

    Raises:
        ExportError: a difference above what is allowed, naming the worst image, or values that are not numbers.
    """
    broken = ~np.isfinite(measured[1]).all(axis=(1, 2))
    if broken.any():
        raise ExportError(f"the heatmap of image {int(broken.argmax())} holds values that are no numbers; try fp32")
    rows = len(expected[0])
    same = measured[0][:rows].argmax(axis=1) == expected[0].argmax(axis=1)
    difference = np.abs(measured[1][:rows] - expected[1]).mean(axis=(1, 2)) * same
    worst = int(difference.argmax())
    if not difference[worst] <= gate.heatmap:
        raise ExportError(
            f"the heatmaps of onnxruntime and torch differ by {difference[worst]:.2e} on average on image {worst} "
            f"(allowed {gate.heatmap:.0e}); no file was written"
        )


def _tied(probabilities: Probabilities, tie: float) -> NDArray[np.bool_]:
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), bool)
    best = np.sort(probabilities, axis=1)
    tied: NDArray[np.bool_] = best[:, -1] - best[:, -2] <= tie
    return tied
