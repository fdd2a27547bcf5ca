"""The augmentation policies by name; what they do to images is in `augment`. Nothing here loads torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """What happens to an image, with which probability and how strongly.

    Attributes:
        horizontal_flip: probability of a left-right flip.
        vertical_flip: probability of a top-bottom flip.
        transpose: probability of swapping the two axes; with both flips at 0.5, the eight dihedral poses are equally
            likely.
        rotate: probability of a rotation within `degrees`.
        jitter: probability of a change of brightness, contrast and saturation by up to `strength` and of hue by up to
            `hue` of the circle.
        stain: probability of multiplying each channel's absorption by its own factor within `gain`.
    """

    horizontal_flip: float
    vertical_flip: float
    rotate: float
    jitter: float
    degrees: float = 30.0
    strength: float = 0.2
    hue: float = 0.05
    transpose: float = 0.0
    stain: float = 0.0
    gain: float = 0.15


POLICIES: dict[str, Policy | None] = {
    "none": None,
    # Each transform with probability 0.1, rotation within 30 degrees (xAI-Proj-B 2024, table 2). The authors'
    # ColorJitter() has no arguments and is the identity, so there is no jitter here.
    "paper": Policy(horizontal_flip=0.1, vertical_flip=0.1, rotate=0.1, jitter=0.0),
    # As the paper's text describes it; the strengths of the jitter are ones it could have meant.
    "paper-intended": Policy(horizontal_flip=0.1, vertical_flip=0.1, rotate=0.1, jitter=0.1),
    # For another clinical centre: tissue has no up, and its colours depend on the staining.
    "strong": Policy(0.5, 0.5, rotate=0.3, jitter=0.8, strength=0.3, hue=0.08, transpose=0.5, stain=0.8),
}
