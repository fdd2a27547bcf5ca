"""The augmentation policies by name; what they do to images is in `augment`. Nothing here loads torch."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Policy:
    """What happens to an image, with which probability and how strongly; every image draws for itself.

    Attributes:
        horizontal_flip: probability of a left-right flip.
        vertical_flip: probability of a top-bottom flip.
        transpose: probability of swapping the two axes; with both flips at 0.5, the eight dihedral poses are equally
            likely.
        rotate: probability of a rotation within `degrees` either way.
        degrees: largest rotation; 180 is any angle.
        scale: smallest and largest factor of the size.
        shift: largest shift along each axis, as a share of the side.
        smooth: whether pixels are interpolated and the image goes on as its mirror image beyond its border; otherwise
            the nearest pixel is taken and the outside is black, as torchvision's rotation does.
        jitter: probability of a change of brightness, contrast and saturation by up to `strength` and of hue by up to
            `hue` of the circle.
        strength: largest relative change of the jitter's first three.
        hue: largest shift of the hue.
        stain: probability of multiplying each channel's absorption, 1 - value, by its own factor within `gain`.
        gain: largest relative change of an absorption.
        density: probability of scaling and moving the density of haematoxylin, eosin and DAB, each by its own factor
            within `density_factor` and offset within `density_offset` (Tellez et al. 2019, section 3.3: HED jitter).
        density_factor: largest relative change of a stain's density.
        density_offset: largest offset of a stain's density, in decadic absorbance.
        channel: probability of a gain and an offset of each channel, within `channel_gain` and `channel_offset`.
        channel_gain: largest relative change of a channel.
        channel_offset: largest offset of a channel, in units of [0, 1].
        blur: probability of a Gaussian blur with a standard deviation of up to `blur_sigma` pixels.
        blur_sigma: largest standard deviation of the blur in pixels of the network's input.
        cutout: probability of filling a square of `cutout_side` with the image's mean colour (DeVries and Taylor 2017).
        cutout_side: side of that square as a share of the image's.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    transpose: float = 0.0
    rotate: float = 0.0
    degrees: float = 30.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    smooth: bool = False
    jitter: float = 0.0
    strength: float = 0.2
    hue: float = 0.05
    stain: float = 0.0
    gain: float = 0.15
    density: float = 0.0
    density_factor: float = 0.25
    density_offset: float = 0.05
    channel: float = 0.0
    channel_gain: float = 0.15
    channel_offset: float = 0.1
    blur: float = 0.0
    blur_sigma: float = 1.0
    cutout: float = 0.0
    cutout_side: float = 0.3


# Each transform with probability 0.1, rotation within 30 degrees (xAI-Proj-B 2024, table 2). The authors'
# ColorJitter() has no arguments and is the identity, so there is no jitter here.
_PAPER = Policy(horizontal_flip=0.1, vertical_flip=0.1, rotate=0.1)
_ANY_POSE = Policy(horizontal_flip=0.5, vertical_flip=0.5, transpose=0.5)  # tissue has no up
_HISTOLOGY = replace(
    _ANY_POSE,
    rotate=1.0,
    degrees=180.0,
    scale=(0.7, 1.1),
    shift=0.15,
    smooth=True,
    density=1.0,
    channel=1.0,
)
POLICIES: dict[str, Policy | None] = {
    "none": None,
    "paper": _PAPER,
    # As the paper's text describes it; the strengths of the jitter are ones it could have meant.
    "paper-intended": replace(_PAPER, jitter=0.1),
    # For another clinical centre: tissue has no up, and its colours depend on the staining.
    "strong": replace(_ANY_POSE, rotate=0.3, jitter=0.8, strength=0.3, hue=0.08, stain=0.8),
    # Stronger for another centre: any angle, and stains moved where they add up, in optical density.
    "histology": _HISTOLOGY,
    # The same, at times out of focus or with a part missing.
    "histology-strong": replace(_HISTOLOGY, blur=0.3, cutout=0.3),
    # Another hand, the same digit: what stays readable, and no flip, which would change the class.
    "digits": Policy(rotate=1.0, degrees=10.0, scale=(0.9, 1.1), shift=0.08, smooth=True),
}
