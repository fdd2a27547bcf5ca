"""Labelled images in memory: what a data set is, and reading one from an `.npz` in any of three key layouts.

Flows in: a path or a name (`catalog` fetches the named ones). Flows out: a `Dataset` of uint8 arrays with the
class names, the native shape and the digest that travel through checkpoint and card to the server.
Nothing here loads torch: scoring reads labelled data with this module too.
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xtrain.data.archived import DAMAGED, ArchivedRows
from xtrain.data.formats import describe_file
from xtrain.data.mapping import MappedRows, digest_once, unpack
from xtrain.errors import ConfigError, DataError

# (N, H, W, C), C is 1 or 3; slicing gives an array in each case. Archived rows are read in order.
Images = NDArray[np.uint8] | MappedRows | ArchivedRows
Labels = NDArray[np.int64]  # (N,)
MAX_CLASSES = 1000  # a label beyond is a mistake, and every class costs a row of the last layer

# Keys of each layout: split -> (images, labels). The Kaggle file is one shuffled pool whose test labels are held back.
LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "medmnist": {name: (f"{name}_images", f"{name}_labels") for name in ("train", "val", "test")},
    "kaggle": {name: (f"{name}_images_shuffled", f"{name}_labels_shuffled") for name in ("train", "val", "test")},
    "keras": {name: (f"x_{name}", f"y_{name}") for name in ("train", "val", "test")},
}
IMAGE_KEYS = tuple(image_key for keys in LAYOUTS.values() for image_key, _ in keys.values())
# The array of an .npz that is scored without labels, by xscore and over HTTP: ours, then those of the layouts.
SCORED_KEYS: tuple[str, ...] = ("images", "test_images", "test_images_shuffled", "x_test")


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 with their labels (N,) int64, or None where the file holds them back."""

    images: Images
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """One data set as its file gives it, before any protocol divides it.

    `splits` keeps the file's order train, val, test; `pool_only` marks files that are one shuffled pool by
    their nature (Kaggle, digits), for which official splits do not exist. `groups` (all rows,) int64 numbers what
    must stay on one side of every division, such as the images of one patient. `notes` are what a user should know of
    how it was read.
    """

    name: str
    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    md5: str
    pool_only: bool = False
    upright: bool = False  # a flip or a large rotation changes what the image shows (handwritten digits)
    licence: str = "unknown"
    source: str = ""
    groups: NDArray[np.int64] | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()
    _starts: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        start = 0
        for name, split in self.splits.items():
            self._starts[name] = start
            start += len(split)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Native (H, W, C) of every image."""
        height, width, channels = next(iter(self.splits.values())).images.shape[1:]
        return int(height), int(width), int(channels)

    @property
    def numbered(self) -> bool:
        """Whether the classes have no names but "0", "1", …."""
        return self.classes == numbers_as_names(len(self.classes))

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split within the concatenation of all splits in file order."""
        start = self._starts[split]
        return np.arange(start, start + len(self.splits[split]))

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Return rows of the concatenated splits; labels are None if any of the rows has none.

        A whole split in its order is the split itself; other rows of arrays in memory are copied, and of memory
        maps are read when they are sliced.
        """
        for name, part in self.splits.items():
            if np.array_equal(rows, self.rows_of(name)):
                return part
        if any(isinstance(part.images, ArchivedRows) for part in self.splits.values()):
            raise ValueError("archived rows are whole splits only; read the file without in_order")
        parts = list(self.splits.values())
        labels = np.empty(len(rows), np.int64)
        labelled = True
        chosen = []
        for part, start in zip(parts, self._starts.values(), strict=True):
            inside = (rows >= start) & (rows < start + len(part))
            chosen.append((part, inside, rows[inside] - start))
            if part.labels is not None:
                labels[inside] = part.labels[rows[inside] - start]
            elif inside.any():
                labelled = False
        arrays = [part.images for part in parts]
        if any(isinstance(array, MappedRows) for array in arrays):
            maps = [array.parts[0] for array in arrays if isinstance(array, MappedRows)]
            return Split(MappedRows(maps, rows), labels if labelled else None)
        images = np.empty((len(rows), *self.shape), np.uint8)
        for part, inside, rows_of_part in chosen:
            images[inside] = part.images[rows_of_part]
        return Split(images, labels if labelled else None)


def array_digest(*arrays: NDArray[Any]) -> str:
    """Return the md5 over the bytes of arrays, for data that has no single file."""
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the md5 of a file, the digest MedMNIST publishes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def numbers_as_names(count: int) -> tuple[str, ...]:
    """Return the class names "0", "1", …."""
    return tuple(str(index) for index in range(count))


def read_npz(
    path: Path, class_count: int | None = None, unpack_to: Path | None = None, in_order: bool = False
) -> Dataset:
    """Read an `.npz` in the MedMNIST, Kaggle or Keras key layout; object arrays are never unpickled.

    Args:
        path: the file.
        class_count: number of classes where the file does not name them; None is up to the largest label.
        unpack_to: a cache folder; the images are then memory-mapped there instead of loaded.
        in_order: whether the images stay in the file, to be read from the first to the last.

    Raises:
        DataError: missing or corrupt file, unknown keys, a wrong shape or dtype, labels outside the classes.
        ConfigError: the file names another number of classes.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; pass the path of an .npz or the name of a data set")
    try:
        arrays: dict[str, Any]
        if unpack_to is None:
            streamed = IMAGE_KEYS if in_order else ()
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {key: ArchivedRows(path, key) if key in streamed else archive[key] for key in archive.files}
        else:
            arrays = dict(unpack(path, unpack_to))
        md5 = file_digest(path) if unpack_to is None else digest_once(path, unpack_to, file_digest)
    except (*DAMAGED, AttributeError, TypeError) as error:
        if zipfile.is_zipfile(path) and "pickle" not in str(error):  # numpy's advice would be to load code
            raise DataError(f"{path}: not a readable .npz ({error}); fetch or save it again") from error
        raise DataError(f"{path}: not a readable .npz but {describe_file(path)}") from error
    layout = next((name for name, keys in LAYOUTS.items() if keys["train"][0] in arrays), None) or next(
        (name for name, keys in LAYOUTS.items() if keys["test"][0] in arrays), None
    )
    if layout is None:
        raise DataError(
            f"{path}: keys {', '.join(sorted(arrays)) or '(none)'} fit no layout; name them train_images and "
            "train_labels (MedMNIST), train_images_shuffled (Kaggle) or x_train and y_train (Keras)"
        )
    splits: dict[str, Split] = {}
    for name, (image_key, label_key) in LAYOUTS[layout].items():
        if image_key not in arrays:
            continue
        images: Images = as_images(arrays[image_key], f"{path}: {image_key}")
        if unpack_to is not None:
            images = MappedRows([images[:]], np.arange(len(images)))
        raw = arrays.get(label_key)
        if raw is None and name != "test":
            raise DataError(f"{path}: {image_key} has no {label_key}; only test labels may be held back")
        labels = None if raw is None else _as_labels(raw, len(images), f"{path}: {label_key}")
        splits[name] = Split(images, labels)
    if len({split.images.shape[1:] for split in splits.values()}) > 1:
        raise DataError(f"{path}: the splits differ in image shape; save them all in one shape")
    names = _class_names(arrays["class_names"], f"{path}: class_names") if "class_names" in arrays else None
    dataset = Dataset(
        name=path.stem,
        splits=splits,
        classes=names or numbers_as_names(class_count or _highest(splits) + 1),
        md5=md5,
        pool_only=layout == "kaggle",
        source=path.name,
    )
    check_class_count(dataset, class_count)
    check_labels(dataset)
    return dataset


def check_class_count(dataset: Dataset, class_count: int | None) -> None:
    """Refuse another number of classes than the data set names.

    Raises:
        ConfigError: with both numbers.
    """
    if class_count not in (None, len(dataset.classes)):
        raise ConfigError(f"--classes {class_count}: {dataset.name} names {len(dataset.classes)} classes; leave it out")


def with_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the data set with a model's class names, where it has none of its own.

    Raises:
        DataError: the data set's own names are others, or a label has none.
    """
    own, names = dataset.classes, tuple(classes)
    if own != names and not dataset.numbered and names != numbers_as_names(len(names)):
        differ = f"{len(own)} classes ({own[0]}, …), the model {len(names)} ({names[0]}, …)"
        if len(own) == len(names):
            index = next(index for index in range(len(own)) if own[index] != names[index])
            differ = f"class {index} called {own[index]!r}, the model {names[index]!r}"
        raise DataError(
            f"{dataset.name}: not the model's classes: the data has {differ}; name data of the same classes"
        )
    renamed = replace(dataset, classes=names)
    check_labels(renamed)
    return renamed


def check_shape(dataset: Dataset, shape: tuple[int, int, int]) -> None:
    """Refuse images of another shape than a model's.

    Raises:
        DataError: with both.
    """
    if dataset.shape != shape:
        raise DataError(
            f"{dataset.name}: images are {dataset.shape}, the model takes {shape} (height, width, channels)"
        )


def check_labels(dataset: Dataset) -> None:
    """Refuse labels outside the classes, naming the split and the row."""
    for name, split in dataset.splits.items():
        if split.labels is None or not len(split):
            continue
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(dataset.classes)))
        if len(wrong):
            raise DataError(
                f"{dataset.source or dataset.name}: {name} label {split.labels[wrong[0]]} at row {wrong[0]} is outside "
                f"the {len(dataset.classes)} classes 0-{len(dataset.classes) - 1}; correct {len(wrong)} label(s)"
            )


def _class_names(array: NDArray[Any], where: str) -> tuple[str, ...]:
    """Return the names of an array as a model can carry them.

    Raises:
        DataError: not a list of different names.
    """
    if array.ndim != 1 or array.dtype.kind not in "US" or not len(array):
        raise DataError(f"{where} is {array.dtype} {array.shape}; it must be a list of texts, one for each class")
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array)
    if len(set(names)) < len(names) or not all(name.strip() and len(name) <= 1000 for name in names):
        raise DataError(f"{where} holds empty, equal or very long names; give every class a name of its own")
    return names


def _highest(splits: Mapping[str, Split]) -> int:
    """Return the largest label of the training rows (of any rows where there are none)."""
    learned = splits.get("train")
    labels = [s.labels for s in ([learned] if learned else splits.values()) if s.labels is not None]
    return max((int(part.max()) for part in labels if len(part)), default=0)


ImageArray = TypeVar("ImageArray", NDArray[Any], ArchivedRows)


def as_images(array: ImageArray, where: str) -> ImageArray:
    """Return an array as images (N, H, W, C) uint8.

    Raises:
        DataError: another dtype or shape; `where` begins the message.
    """
    if array.dtype != np.uint8:
        raise DataError(f"{where} has dtype {array.dtype}; images are uint8 pixels from 0 to 255")
    if array.ndim == 5 or (array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[1] == array.shape[-1]):
        raise DataError(f"{where} has shape {array.shape}: 3-D volumes are out of scope; images are (N, H, W, 1 or 3)")
    if array.ndim == 3:
        array = array.reshaped((*array.shape[1:], 1)) if isinstance(array, ArchivedRows) else array[..., None]  # type: ignore[assignment]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape[1:]:
        raise DataError(f"{where} has shape {array.shape}; images are (N, H, W) grey or (N, H, W, 3) RGB")
    return array


def _as_labels(array: NDArray[Any], rows: int, where: str) -> Labels:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] > 1:
        raise DataError(
            f"{where} has shape {array.shape}: multi-label data (such as ChestMNIST) is out of scope; one-hot labels "
            "become one integer an image with labels.argmax(axis=1)"
        )
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{where} is {array.dtype} {array.shape}; labels are one integer an image, (N,) or (N, 1)")
    if len(array) != rows:
        raise DataError(f"{where} has {len(array)} labels for {rows} images; they must be as many")
    wrong = np.flatnonzero((array < 0) | (array >= MAX_CLASSES))
    if len(wrong):
        raise DataError(
            f"{where}: label {array[wrong[0]]} at row {wrong[0]} is outside 0-{MAX_CLASSES - 1}, all that is taken; "
            f"correct {len(wrong)} label(s)"
        )
    return array.astype(np.int64)
