"""From a file's bytes to the pixels a model takes: decoded, upright, in its colours, at its native size.

Training from a folder of pictures, scoring and serving decode with these functions, so that a picture is the same
pixels everywhere. Limits are checked on the header, before a pixel is decoded, so that a small file cannot become a
large array.
"""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xtrain.errors import XtrainError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MEDIA_TYPES = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",  # not registered, and what many clients send
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/tif": "TIFF",
}
DARKEST_WHITE = 4096  # a 16-bit picture without a brighter pixel is one of at most 12 bits in a wider container
MAX_PIXELS = 25_000_000  # a 5000 x 5000 slide region; 75 MB once decoded to RGB


class UnreadableImage(XtrainError):
    """Bytes that are no image, or a broken one."""


class UnsupportedImage(XtrainError):
    """A format, or a kind of file within it, that is not taken."""


class ImageTooLarge(XtrainError):
    """More pixels than are decoded."""


def decode(content: bytes, shape: tuple[int, int, int], max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one image to the model's native (H, W, C) uint8.

    Raises:
        UnreadableImage, UnsupportedImage, ImageTooLarge: as `decode_image`.
    """
    return fit(decode_image(content, max_pixels), shape)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image file as `decode_image` does.

    Raises:
        UnreadableImage: no such file, or as `decode_image`.
        UnsupportedImage, ImageTooLarge: as `decode_image`.
    """
    try:
        return decode_image(path.read_bytes(), max_pixels)
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}; name an image file") from error
    except XtrainError as error:
        raise type(error)(f"{path}: {error}") from error


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image, upright, 8 bits a channel, in mode `L` or `RGB`.

    EXIF orientation is applied; transparency is laid over white, the background of a bright-field slide; palette and
    CMYK images are converted; 16-bit images give their upper 8 bits.

    Raises:
        UnreadableImage: not an image, or damaged.
        UnsupportedImage: another format, a file of several pages or frames, or pixels whose range is not known: floats
            and 32-bit integers.
        ImageTooLarge: more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs below its own limit and of odd metadata; our limit is checked right below.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > max_pixels:
                    raise ImageTooLarge(
                        f"the image has {image.width} x {image.height} = {pixels} pixels; "
                        f"at most {max_pixels} are decoded, send a smaller one"
                    )
                if getattr(image, "n_frames", 1) != 1:
                    raise UnsupportedImage(f"the {image.format} file holds several images; send one at a time")
                deep_colours = not image.mode.startswith("I") and ";16" in str(image.tile)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                if deep_colours:  # Pillow keeps the upper 8 of 16 bits of colours, and says nothing
                    colours = [band for band in image.getbands() if band != "A"]
                    _refuse_fewer_bits(256 * max(int(np.asarray(image.getchannel(band)).max()) for band in colours))
                return _eight_bit(image)
    except XtrainError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image of a known format; send {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the image has too many pixels; at most {max_pixels} are decoded") from error
    except Exception as error:  # Pillow's decoders raise whatever their formats inspire
        raise UnreadableImage(f"the image is damaged ({type(error).__name__}: {error}); send it again whole") from error


def convert_image(image: Image.Image) -> Image.Image:
    """Return a Pillow image of any mode as `decode_image` would: upright, 8 bits a channel, in mode `L` or `RGB`."""
    return _eight_bit(ImageOps.exif_transpose(image))


def fit(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image of `decode_image` as the native (H, W, C) uint8.

    Other sizes are resized with Pillow's BILINEAR, which from a 224x224 tile gives the very bytes of PathMNIST.
    """
    height, width, channels = shape
    image = _in_mode(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(shape)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert any mode to `L` or `RGB`, 8 bits a channel.

    Raises:
        UnsupportedImage: floats or 32-bit integers.
    """
    if image.mode.startswith(("I", "F")):
        return _sixteen_bit(image)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image itself where it has the mode already: `convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits.

    Raises:
        UnsupportedImage: floats, 32-bit integers, and 16-bit pixels that use fewer bits: their white is another number
            than 65535, and the picture, taken for a dark one, would get another class.
    """
    if not image.mode.startswith("I;16"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise UnsupportedImage(f"the pixels are {kind}, whose range the file does not tell; send 8 bits a channel")
    values: NDArray[Any] = np.asarray(image)
    brightest = int(values.max(initial=0))
    if brightest:
        _refuse_fewer_bits(brightest)
    return Image.fromarray((values >> 8).astype(np.uint8))


def _refuse_fewer_bits(brightest: int) -> None:
    """Refuse an image of 16 bits a channel that has no bright pixel.

    Raises:
        UnsupportedImage: with the brightest.
    """
    if brightest < DARKEST_WHITE:
        raise UnsupportedImage(
            f"the image has 16 bits a channel and its brightest pixel is {brightest} of 65535, so it uses fewer bits; "
            "scale it to 0-65535, or send 8 bits a channel"
        )
