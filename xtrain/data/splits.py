"""Dividing a data set into training, validation and test rows under one of two named protocols.

`official` keeps the file's own splits; `pooled` concatenates and permutes them with a seed, which is what the
Kaggle file of the paper is. A figure without its protocol means nothing: on PathMNIST they differ by eight
points, because the official test split is another clinical centre.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xtrain.data.datasets import Dataset, Split
from xtrain.errors import ConfigError, DataError

PROTOCOLS = ("official", "pooled")
SPLITS = ("train", "val", "test")

# The paper's Kaggle file: 77,180 of PathMNIST's 107,180 rows to learn from, 30,000 to score (xAI-Proj-B 2024, data).
POOLED_TRAIN, POOLED_ALL = 77_180, 107_180

# The run's own seed stays out of the split, so that the members of an ensemble share their validation rows.
SPLIT_SEED = 22
VAL_FRACTION = 0.2


@dataclass(frozen=True)
class Partition:
    """Rows of a data set, as numbers into the concatenation of its splits in file order.

    `uses_seed` and `uses_fraction` say whether `split_seed` and `val_fraction` had a part in it.
    """

    protocol: str
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    digest: str
    uses_seed: bool = True
    uses_fraction: bool = True

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of `train`, `val` or `test`."""
        rows: NDArray[np.int64] = getattr(self, split)
        return rows


def natural_protocol(dataset: Dataset) -> str:
    """Return the protocol a file comes with: `pooled` for one shuffled pool, else `official`."""
    return "pooled" if dataset.pool_only else "official"


def divide(
    dataset: Dataset,
    protocol: str | None = None,
    *,
    split_seed: int = SPLIT_SEED,
    val_fraction: float = VAL_FRACTION,
) -> Partition:
    """Divide a data set into splits; the same arguments give the same rows on every machine.

    Args:
        dataset: what to divide.
        protocol: `official`, `pooled`, or None for the file's own.
        split_seed: seed of the permutations.
        val_fraction: share of the learning rows kept for validation where the file has no validation split.

    Raises:
        ConfigError: a protocol the file cannot follow, or a fraction outside (0, 1).
        DataError: groups that cannot be divided.
    """
    protocol = protocol or natural_protocol(dataset)
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is unknown; choose one of: {', '.join(PROTOCOLS)}")
    if protocol == "official" and dataset.pool_only:
        raise ConfigError(f"{dataset.name} is one shuffled pool without official splits; use --protocol pooled")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"validation fraction {val_fraction} is not between 0 and 1")
    test = dataset.splits.get("test")
    held_back = test is not None and test.labels is None
    if protocol == "pooled" and held_back and not dataset.pool_only:
        raise ConfigError(
            f"{dataset.name} holds its test labels back, so its splits cannot be pooled; use --protocol official"
        )
    # RandomState's stream is frozen for good (NEP 19); Generator's may change between numpy versions.
    random = np.random.RandomState(split_seed)
    none = np.empty(0, np.int64)
    parts = {name: dataset.rows_of(name) for name in dataset.splits}
    # A Kaggle file was pooled before it was divided, and unlabelled rows can never be learned from.
    if protocol == "official" or (test is not None and dataset.pool_only):
        learned, val, tested = parts.get("train", none), parts.get("val"), parts.get("test", none)
        draws_pool = False
    else:
        pool = _permuted(np.concatenate(list(parts.values())), dataset.groups, random)
        learned, tested = _cut(pool, len(pool) * POOLED_TRAIN // POOLED_ALL, dataset)
        val, draws_pool = None, True
    draws_val = val is None and len(learned) > 0
    if val is None:
        learned = _permuted(learned, dataset.groups, random)
        learned, val = _cut(learned, len(learned) - round(len(learned) * val_fraction), dataset)
    _check_groups(dataset, {"train": learned, "val": val, "test": tested})
    digest = hashlib.sha256(f"{dataset.md5} {protocol}".encode())
    for rows in (learned, val, tested):
        digest.update(f" {len(rows)} ".encode() + rows.astype("<i8").tobytes())
    return Partition(protocol, learned, val, tested, digest.hexdigest()[:16], draws_pool or draws_val, draws_val)


def is_own_split(dataset: Dataset, protocol: str, split: str) -> bool:
    """Return whether `divide` would give the rows of that split as the file holds them: all of it, in order."""
    if (protocol == "official") != dataset.pool_only and (not dataset.pool_only or "test" in dataset.splits):
        return split in dataset.splits and (split != "train" or "val" in dataset.splits)
    return False


def _permuted(
    rows: NDArray[np.int64], groups: NDArray[np.int64] | None, random: np.random.RandomState
) -> NDArray[np.int64]:
    """Return the rows in random order; rows of one group follow each other."""
    if groups is None:
        return random.permutation(rows)
    names, group_of_row = np.unique(groups[rows], return_inverse=True)
    place = random.permutation(len(names))
    permuted: NDArray[np.int64] = rows[np.argsort(place[group_of_row], kind="stable")]
    return permuted


def _cut(rows: NDArray[np.int64], at: int, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows before and behind a place, moved to the nearest end of a group.

    Raises:
        DataError: one group holds all rows.
    """
    if dataset.groups is not None and len(rows):
        ends = np.flatnonzero(np.diff(dataset.groups[rows])) + 1
        if not len(ends):
            raise DataError(f"{dataset.name}: all rows to divide are of one group; widen --group-pattern")
        at = int(ends[np.argmin(np.abs(ends - at))])
    return rows[:at], rows[at:]


def _check_groups(dataset: Dataset, parts: dict[str, NDArray[np.int64]]) -> None:
    """Refuse splits of a file that share a group.

    Raises:
        DataError: naming the two splits.
    """
    if dataset.groups is None:
        return
    held = {name: set(dataset.groups[rows].tolist()) for name, rows in parts.items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = held[first] & held[second]
        if shared:
            raise DataError(
                f"{dataset.name}: {len(shared)} group(s) have images in both {first} and {second}; "
                "move each to one split, or put all classes into one pool"
            )


def select(dataset: Dataset, partition: Partition, split: str) -> Split:
    """Return the images and labels of one split.

    Raises:
        DataError: the split is empty, named with what could be used instead.
    """
    rows = partition.rows(split)
    if len(rows) == 0:
        filled = [name for name in SPLITS if len(partition.rows(name))]
        raise DataError(
            f"{dataset.name}: the {split} split ({partition.protocol}) is empty; "
            f"{'splits with rows: ' + ', '.join(filled) if filled else 'the file holds no images'}"
        )
    return dataset.take(rows)
