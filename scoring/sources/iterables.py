"""Anything that yields `(name, image)` as a source: a bucket, a database, a microscope. For `xtrain.score`."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scoring.sources.source import ImageBytes, ImageFile, Part, Picture, Shape, Source, images_a_part
from serving.model.predictor import MAX_RUN
from xtrain.errors import DataError, XtrainError
from xtrain.images import UnreadableImage, convert_image, fit


@dataclass(frozen=True)
class Decoded:
    """An image that came as pixels, at the model's size, or what is wrong with it."""

    name: str
    array: NDArray[np.uint8] | None
    error: str = ""

    def pixels(self, shape: Shape) -> NDArray[np.uint8]:
        """Return its pixels.

        Raises:
            UnreadableImage: it could not be converted.
        """
        if self.array is None:
            raise UnreadableImage(self.error)
        return self.array


@dataclass(frozen=True)
class IterableShard:
    """All that an iterable yields; it is read once."""

    pairs: Iterator[Any]
    shape: Shape
    name: str = "the iterable"
    identity: str = ""
    rows: int | None = None

    def parts(self) -> Iterator[Part]:
        """Yield the images in order.

        Raises:
            DataError: something else than pairs of a name and an image.
        """
        size = images_a_part(self.shape, MAX_RUN)
        while part := [self._picture(pair) for pair in itertools.islice(self.pairs, size)]:
            yield Part(part)

    def _picture(self, pair: Any) -> Picture:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise DataError(f"the iterable yields {type(pair).__name__}; it must yield (name, image) pairs")
        name, image = pair
        if isinstance(image, bytes):
            return ImageBytes(str(name), image)
        if isinstance(image, str | Path):
            return ImageFile(str(name), str(image))
        if (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.shape[2:] in ((), (1,), (3,))
            and image.ndim > 1
        ):
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        if not isinstance(image, Image.Image):
            raise DataError(
                f"{name}: the iterable yields {type(image).__name__} as an image; it must be bytes of a file, a path, "
                "a PIL image or an array (H, W) or (H, W, 3) uint8"
            )
        try:
            return Decoded(str(name), fit(convert_image(image), self.shape))
        except (XtrainError, OSError, ValueError) as error:
            return Decoded(str(name), None, f"{name}: {error}")


def iterable_source(pairs: Iterable[Any], shape: Shape) -> Source:
    """Return what yields `(name, image)` as a source of one shard, to be read once, in a thread of its own.

    Args:
        pairs: an image is the bytes of a file, a path, a PIL image or an array (H, W) or (H, W, 3) uint8.
        shape: (H, W, C) of the model's images.
    """
    return Source([IterableShard(iter(pairs), shape)], has_names=True)
