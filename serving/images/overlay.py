"""A heatmap laid over the image it explains."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Yellow is what stained tissue, pink to purple, has least of.
COLOUR = (255, 230, 0)
STRENGTH = 0.65


def overlay(picture: Image.Image, heatmap: NDArray[np.float32]) -> Image.Image:
    """The picture in RGB at its own size, tinted the more the higher the heatmap's value is there.

    Args:
        picture: of any mode.
        heatmap: (h, w) in [0, 1] over the whole picture; it is enlarged bilinearly.
    """
    heat = Image.fromarray(heatmap.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(np.rint(np.clip(np.asarray(heat), 0, 1) * (255 * STRENGTH)).astype(np.uint8))
    return Image.composite(Image.new("RGB", picture.size, COLOUR), picture.convert("RGB"), mask)
