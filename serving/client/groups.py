"""Images of one request after another: encoded files, up to so many bytes, or rows of an array."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xtrain.images import UnsupportedImage, convert_image

Picture = str | Path | bytes | Image.Image
Pictures = Picture | Iterable[Picture] | NDArray[np.uint8]

GROUP_IMAGES, GROUP_BYTES = 16, 4 * 2**20  # of one request
GROUP_ROWS = 256  # of an array in one request


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class Group:
    """Images of one request: `names`, and their encoded `contents`, or the rows of an array."""

    names: list[str]
    contents: list[bytes]
    rows: NDArray[np.uint8] | None = None

    def parts(self) -> "list[Group]":
        """Return each image by itself."""
        if self.rows is not None:
            return [Group([name], [], row[None]) for name, row in zip(self.names, self.rows, strict=True)]
        return [Group([name], [content]) for name, content in zip(self.names, self.contents, strict=True)]

    def body(self) -> dict[str, Any]:
        """Return httpx's arguments of the body."""
        if self.rows is None:
            # Not the files' own names, which may be in no encoding; answers come in order.
            return {"files": [("image", (str(index), content)) for index, content in enumerate(self.contents)]}
        buffer = io.BytesIO()
        np.save(buffer, self.rows, allow_pickle=False)
        return {"content": buffer.getvalue(), "headers": {"Content-Type": "application/x-npy"}}


def groups(images: Pictures) -> Iterator[Group | Unreadable]:
    """Yield the images of one request after another, and between them, in their order, files that cannot be read."""
    if isinstance(images, np.ndarray):
        for start in range(0, len(images), GROUP_ROWS):
            rows = images[start : start + GROUP_ROWS]
            yield Group([str(start + index) for index in range(len(rows))], [], rows)
        return
    group, size = Group([], []), 0
    for number, image in enumerate([images] if isinstance(images, str | Path | bytes | Image.Image) else images):
        try:
            name, content = _encoded(image, number)
        except (OSError, ValueError, UnsupportedImage) as error:
            if group.names:
                yield group
            group, size = Group([], []), 0
            reason = getattr(error, "strerror", None) or error
            yield Unreadable(_name(image, number), f"{reason}; name an image file")
            continue
        if group.names and (len(group.names) == GROUP_IMAGES or size + len(content) > GROUP_BYTES):
            yield group
            group, size = Group([], []), 0
        group.names.append(name)
        group.contents.append(content)
        size += len(content)
    if group.names:
        yield group


def _encoded(image: Picture, number: int) -> tuple[str, bytes]:
    """Return a picture's name and its bytes as a file."""
    if isinstance(image, bytes):
        return _name(image, number), image
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        convert_image(image).save(buffer, "PNG", compress_level=1)  # upright, since a PNG made here keeps no EXIF
        return _name(image, number), buffer.getvalue()
    return _name(image, number), Path(image).read_bytes()


def _name(image: Picture, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else str(number)
