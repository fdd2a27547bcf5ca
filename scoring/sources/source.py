"""What every source of images gives: shards in order, each an ordered run of images that can be read by itself.

A shard is what one process computes and what is computed again after a failure. It is read in parts of a few images,
so that memory does not grow with their number.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xtrain.errors import XtrainError
from xtrain.images import decode_image, fit, read_image
from xtrain.images.errors import ImageTooLarge, UnreadableImage

PART_BYTES = 8 * 1024 * 1024  # of the pixels of a part
MAX_FILE = 256 * 1024 * 1024  # bytes of an image file inside an archive or a table
# Of the pictures that are read; a format that needs another reader is a source of its own.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Shape = tuple[int, int, int]  # (H, W, C)


class Picture(Protocol):
    """An image that is not decoded yet; it travels to another process, which decodes it."""

    @property
    def name(self) -> str:
        """What it is called in its source."""

    def pixels(self, shape: Shape) -> NDArray[np.uint8]:
        """Return its pixels (H, W, C) uint8.

        Raises:
            XtrainError: it cannot be read or decoded.
        """


@dataclass(frozen=True)
class Part:
    """Some images in order: pixels (n, H, W, C) uint8 with their names, if they have any, or pictures."""

    images: NDArray[np.uint8] | Sequence[Picture]
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)


class Shard(Protocol):
    """An ordered run of images.

    Attributes:
        name: for messages.
        identity: changes when its content does: names, sizes, times or checksums, and which rows.
        rows: number of images; None where only reading tells.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def rows(self) -> int | None: ...  # noqa: D102

    def parts(self) -> Iterator[Part]:
        """Yield the images in order.

        Raises:
            DataError: the file is damaged or was changed.
        """


@dataclass(frozen=True)
class Source:
    """What is scored.

    Attributes:
        shards: in order.
        has_names: whether images have names, such as those of their files.
        description: of the images, such as `test split, official protocol`.
        split: of a data set, None for anything else.
        protocol: likewise.
        notes: what a user should know of how it was read.
        files: that are read, where DATA stands for several.
    """

    shards: Sequence[Shard]
    has_names: bool
    description: str = ""
    split: str | None = None
    protocol: str | None = None
    notes: tuple[str, ...] = ()
    files: Sequence[str] = ()

    @property
    def rows(self) -> int | None:
        """Number of images; None where only reading tells."""
        counts = [shard.rows for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)


class ImageFile(NamedTuple):
    """A picture in a file of its own."""

    name: str
    path: str

    def pixels(self, shape: Shape) -> NDArray[np.uint8]:
        """Return its pixels (H, W, C) uint8.

        Raises:
            UnreadableImage, UnsupportedImage, ImageTooLarge: it cannot be read or decoded.
        """
        if os.path.exists(self.path) and not os.path.isfile(self.path):  # a pipe would be waited for
            raise UnreadableImage(f"{self.path}: is no file; name image files")
        return fit(read_image(self.path), shape)


class ImageBytes(NamedTuple):
    """A picture as the bytes of its file."""

    name: str
    content: bytes

    def pixels(self, shape: Shape) -> NDArray[np.uint8]:
        """Return its pixels (H, W, C) uint8.

        Raises:
            UnreadableImage, UnsupportedImage, ImageTooLarge: it cannot be decoded.
        """
        if len(self.content) > MAX_FILE:
            raise ImageTooLarge(f"{self.name}: the file has more than {MAX_FILE} bytes, which are not read")
        try:
            return fit(decode_image(self.content), shape)
        except XtrainError as error:
            raise type(error)(f"{self.name}: {error}") from error


def images_a_part(shape: Shape, largest: int) -> int:
    """Return how many pictures are decoded together, at most `largest`."""
    height, width, channels = shape
    return max(1, min(largest, PART_BYTES // (height * width * channels)))


def stamp(path: Path) -> str:
    """Return what a file is known by: its name, size and time of change.

    Raises:
        OSError: no such file.
    """
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
