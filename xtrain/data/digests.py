"""Digests of rows, by which a model knows the images it was trained on again in any file, layout and order.

Flows in: the pixels of the training rows. Flows out: 8 bytes a row, which go into the checkpoint and from there, as
`TrainingRows`, into the card.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from xtrain.data.datasets import Images

Digests = NDArray[np.uint64]  # (N,)
READ_ROWS = 16  # read at a time where the images are on disk


def row_digests(images: Images) -> Digests:
    """Return a digest (N,) uint64 of the pixels of each image (N, H, W, C): the first 8 bytes of BLAKE2b."""
    digests = np.empty(len(images), np.uint64)
    for start in range(0, len(images), READ_ROWS):
        for index, pixels in enumerate(np.ascontiguousarray(images[start : start + READ_ROWS]), start):
            digests[index] = int.from_bytes(hashlib.blake2b(pixels.data, digest_size=8).digest(), "little")
    return digests
