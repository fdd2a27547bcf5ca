"""Pixels of any mode to 8 bits a channel, grey or RGB, and to a model's native size.

What needs copies of the pixels works on one block of them at a time, so that a picture of 25 megapixels takes the
memory of its result and not several times as much.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xtrain.images.errors import UnsupportedImage

DARKEST_WHITE = 4096  # a 16-bit picture without a brighter pixel is one of at most 12 bits in a wider container
BLOCK_SIDE = 1024  # of the blocks that are converted one after another


def convert_image(image: Image.Image) -> Image.Image:
    """Return a Pillow image of any mode as `decode_image` would: upright, 8 bits a channel, in mode `L` or `RGB`."""
    return eight_bit(ImageOps.exif_transpose(image))


def fit(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image of `decode_image` as the native (H, W, C) uint8.

    Other sizes are resized with Pillow's BILINEAR, which from a 224x224 tile gives the very bytes of PathMNIST.
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    if mode == "L":
        image = _in_mode(image, mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    # Grey as RGB once it is small: the same pixels, since every channel is resized by itself.
    return np.asarray(_in_mode(image, mode), dtype=np.uint8).reshape(shape)


def eight_bit(image: Image.Image) -> Image.Image:
    """Convert any mode to `L` or `RGB`, 8 bits a channel; transparency is laid over white.

    Raises:
        UnsupportedImage: floats or 32-bit integers, or 16 bits a channel that are fewer.
    """
    if image.mode.startswith(("I", "F")):
        return _sixteen_bit(image)
    if has_transparency(image):
        return _over_white(image)
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def has_transparency(image: Image.Image) -> bool:
    """Return whether some pixels may be transparent."""
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def refuse_fewer_bits(brightest: int) -> None:
    """Refuse an image of 16 bits a channel that has no bright pixel.

    Raises:
        UnsupportedImage: with the brightest.
    """
    if brightest < DARKEST_WHITE:
        raise UnsupportedImage(
            f"the image has 16 bits a channel and its brightest pixel is {brightest} of 65535, so it uses fewer bits; "
            "scale it to 0-65535, or send 8 bits a channel"
        )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image itself where it has the mode already: `convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _blocks(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes (left, top, right, bottom) of an image's blocks."""
    for top in range(0, image.height, BLOCK_SIDE):
        for left in range(0, image.width, BLOCK_SIDE):
            yield left, top, min(left + BLOCK_SIDE, image.width), min(top + BLOCK_SIDE, image.height)


def _over_white(image: Image.Image) -> Image.Image:
    """Return the image in RGB over white, the background of a bright-field slide."""
    result = Image.new("RGB", image.size)
    for box in _blocks(image):
        block = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", block.size, "white")
        result.paste(Image.alpha_composite(white, block).convert("RGB"), box)
    return result


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits.

    Raises:
        UnsupportedImage: floats, 32-bit integers, and 16-bit pixels that use fewer bits: their white is another number
            than 65535, and the picture, taken for a dark one, would get another class.
    """
    if not image.mode.startswith("I;16"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise UnsupportedImage(f"the pixels are {kind}, whose range the file does not tell; send 8 bits a channel")
    result, brightest = Image.new("L", image.size), 0
    for box in _blocks(image):
        values: NDArray[Any] = np.asarray(image.crop(box))
        brightest = max(brightest, int(values.max(initial=0)))
        result.paste(Image.fromarray((values >> 8).astype(np.uint8)), box)
    if brightest:
        refuse_fewer_bits(brightest)
    return result
