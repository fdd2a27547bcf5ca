"""Mean and standard deviation of each channel, from a count of the 256 levels: exact, and without a float copy."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from xtrain.data.datasets import Images

CHUNK_ROWS = 32  # counted at one time: `bincount` makes eight bytes of every element
THREADS = min(4, os.cpu_count() or 1)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels, in units of [0, 1].

    (The paper's std is the mean of per-image stds and includes validation rows; both are mistakes.)
    """
    return statistics_of(level_counts(images))


def statistics_of(counts: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel from the pixels (channels, 256) of each level."""
    levels = np.arange(256) / 255.0
    means, stds = [], []
    for channel in counts:
        mean = float((channel * levels).sum() / channel.sum())
        means.append(mean)
        stds.append(float(np.sqrt((channel * (levels - mean) ** 2).sum() / channel.sum())))
    return tuple(means), tuple(stds)


def level_counts(images: Images) -> NDArray[np.int64]:
    """Return the pixels of each level (channels, 256), counted by a few threads, a chunk of the images each."""
    starts = range(0, len(images), CHUNK_ROWS)
    with ThreadPoolExecutor(THREADS, "statistics") as threads:
        parts = threads.map(lambda start: _chunk_counts(images[start : start + CHUNK_ROWS]), starts)
        return sum(parts, np.zeros((images.shape[-1], 256), np.int64))


def _chunk_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count two pixels at a time, as one of 65,536 pairs."""
    counts = np.empty((images.shape[-1], 256), np.int64)
    for channel in range(len(counts)):
        values = np.ascontiguousarray(images[..., channel]).ravel()
        even = len(values) // 2 * 2
        pairs = np.bincount(values[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
        counts[channel] = pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(values[even:], minlength=256)
    return counts
