"""A heatmap laid over the image it explains."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Yellow is what stained tissue, pink to purple, has least of.
COLOUR = (255, 230, 0)
STRENGTH = 0.65


def overlay(image: Image.Image, heatmap: NDArray[np.float32]) -> Image.Image:
    """Return the image in RGB at its own size, tinted by the heatmap's value at each place.

    Args:
        image: of any mode.
        heatmap: (h, w) in [0, 1] over the whole image; it is enlarged bilinearly.
    """
    heat = Image.fromarray(heatmap.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(np.rint(np.clip(np.asarray(heat), 0, 1) * (255 * STRENGTH)).astype(np.uint8))
    return Image.composite(Image.new("RGB", image.size, COLOUR), image.convert("RGB"), mask)
