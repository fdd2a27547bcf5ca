"""Decodes image files, once their header says that this is worth it."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from xtrain.errors import XtrainError
from xtrain.images.conversion import eight_bit, fit, has_transparency, refuse_fewer_bits
from xtrain.images.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from xtrain.images.structure import FORMATS, check_structure

MAX_PIXELS = 25_000_000  # a 5000 x 5000 slide region; 100 MB once decoded, since Pillow keeps RGB in 4 bytes
BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # of a pixel in Pillow's memory; others take 4
# Of a pixel beside the decoded ones, while decoding: the frame of libwebp and its copy, the strip or tile of libtiff,
# the coefficients that libjpeg keeps between the scans of a progressive file.
WHILE_DECODING = {"WEBP": 8, "TIFF": 8, "PROGRESSIVE": 6}
LARGEST_TILE = 512  # side of a TIFF's tile, unless the picture itself is larger
ORIENTATION = 0x0112
RLE = (1, 2)  # BMP's compressions that Pillow decodes in Python, megabytes a second


class EncodedImage:
    """An opened image file whose pixels are not decoded yet.

    Attributes:
        image: as Pillow has opened it.
        pixels: their number.
    """

    def __init__(self, image: ImageFile.ImageFile, content: bytes) -> None:
        """Look at an image that Pillow has opened, and at its file."""
        self.image, self._content = image, content
        self.pixels = image.width * image.height

    def decoding_bytes(self) -> int:
        """Return what decoding and converting the pixels takes at once, in bytes; before `decode`."""
        image = self.image
        stored, result = BYTES.get(image.mode, 4), 1 if image.mode in ("1", "L") or image.mode.startswith("I") else 4
        kind = "PROGRESSIVE" if image.info.get("progressive") else str(image.format)
        needs_conversion = image.mode not in ("L", "RGB") or has_transparency(image)
        copies = result * needs_conversion + stored * _may_turn(image, self._content)
        a_pixel = stored + max(WHILE_DECODING.get(kind, 0), copies)
        return self.pixels * a_pixel + _tile_bytes(image)

    def decode(self) -> Image.Image:
        """Return the image as `decode_image` does; once.

        Raises:
            UnreadableImage, UnsupportedImage: as `decode_image`.
        """
        image = self.image
        deep_colours = not image.mode.startswith("I") and ";16" in str(image.tile)
        image.load()
        if _may_turn(image, self._content):
            ImageOps.exif_transpose(image, in_place=True)
        if deep_colours:  # Pillow keeps the upper 8 of 16 bits of colours, and says nothing
            extremes = cast("tuple[tuple[int, int], ...]", image.getextrema())  # (darkest, brightest) of each band
            bands = zip(image.getbands(), extremes, strict=True)
            refuse_fewer_bits(256 * max(brightest for band, (_, brightest) in bands if band != "A"))
        return eight_bit(image)


@contextmanager
def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[EncodedImage]:
    """Open an image file and check its header; what its decoding raises is raised as this function's errors too.

    Raises:
        UnreadableImage, UnsupportedImage, ImageTooLarge: as `decode_image`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs below its own limit and of odd metadata; our limit is checked right below.
            warnings.simplefilter("ignore")
            check_structure(content)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, max_pixels)
                yield EncodedImage(image, content)
    except XtrainError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image of a known format; send {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageTooLarge(f"decoding takes too much memory; send an image of at most {max_pixels} pixels") from error
    except Exception as error:  # Pillow's decoders raise whatever their formats inspire
        raise UnreadableImage(f"the image is damaged ({type(error).__name__}: {error}); send it again whole") from error


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image, upright, 8 bits a channel, in mode `L` or `RGB`.

    EXIF orientation is applied; transparency is laid over white, the background of a bright-field slide; palette and
    CMYK images are converted; 16-bit images give their upper 8 bits.

    Raises:
        UnreadableImage: not an image, or damaged.
        UnsupportedImage: another format, a file of several pages or frames or of thousands of pieces, or pixels whose
            range is not known: floats and 32-bit integers.
        ImageTooLarge: more than `max_pixels`, or a TIFF in larger tiles than the picture.
    """
    with open_image(content, max_pixels) as encoded:
        return encoded.decode()


def decode(content: bytes, shape: tuple[int, int, int], max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one image to the model's native (H, W, C) uint8.

    Raises:
        UnreadableImage, UnsupportedImage, ImageTooLarge: as `decode_image`.
    """
    return fit(decode_image(content, max_pixels), shape)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image file as `decode_image` does.

    Raises:
        UnreadableImage: no such file, or as `decode_image`.
        UnsupportedImage, ImageTooLarge: as `decode_image`.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return decode_image(file.read(), max_pixels)
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}; name an image file") from error
    except XtrainError as error:
        raise type(error)(f"{path}: {error}") from error


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse what need not be decoded to be refused.

    Raises:
        ImageTooLarge, UnsupportedImage: as `decode_image`.
    """
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"the image has {image.width} x {image.height} = {pixels} pixels; "
            f"at most {max_pixels} are decoded, send a smaller one"
        )
    if _has_more_frames(image):
        raise UnsupportedImage(f"the {image.format} file holds several images; send one at a time")
    if image.format == "BMP" and image.info.get("compression") in RLE:
        raise UnsupportedImage("the BMP is run-length encoded; save it as PNG")
    sides = zip(image.size, _tile(image), strict=True) if image.format == "TIFF" else ()
    for side, tile in sides:
        if tile > max(LARGEST_TILE, 16 * math.ceil(side / 16)):  # tiles' sides are multiples of 16
            raise ImageTooLarge("the TIFF's tiles are larger than its picture; save it again")


def _has_more_frames(image: Image.Image) -> bool:
    """Return whether the file holds a second page or frame.

    Of a TIFF, `n_frames` walks all pages, which takes the square of their number: 8 s for 20,000.
    """
    if image.format != "TIFF":
        return bool(getattr(image, "n_frames", 1) != 1)
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _may_turn(image: ImageFile.ImageFile, content: bytes) -> bool:
    """Return whether the image may have an EXIF orientation; a PNG's may stand behind its pixels, or in a text."""
    if image.format == "PNG":
        return any(kind in content for kind in (b"eXIf", b"iTXt", b"Raw profile"))
    return bool(image.getexif().get(ORIENTATION, 1) != 1)


def _tile(image: Image.Image) -> tuple[int, int]:
    """Return the sides (width, height) of a TIFF's tiles; zeros for one in strips, and for other formats."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    width, height = (tags.get(tag, 0) for tag in (322, 323))
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _tile_bytes(image: Image.Image) -> int:
    """Return the bytes of one tile, of at most four 16-bit samples a pixel."""
    width, height = _tile(image)
    return 8 * width * height
