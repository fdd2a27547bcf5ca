"""Pictures in folders of classes as a data set, decoded as the service decodes them.

Flows in: `FOLDER/CLASS/…` (one pool), or `FOLDER/train/CLASS/…` with `val` and `test` beside it. Flows out: a `Dataset`
of uint8 images at one size; where they do not fit the memory they are decoded once into memory maps.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xtrain.data.datasets import MAX_CLASSES, Dataset, Images, Labels, Split
from xtrain.data.formats import DICOM, NIFTI
from xtrain.data.mapping import MappedRows, array_file
from xtrain.errors import ConfigError, DataError, XtrainError
from xtrain.images import fit, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_OUT_OF_SCOPE = {".dcm": DICOM, ".nii": NIFTI, ".svs": "a whole slide; cut it into tiles first"}


@dataclass(frozen=True)
class Picture:
    """One file: its split, its class by name, and its path below the folder with forward slashes."""

    split: str
    label: str
    path: Path
    name: str


def read_folder(
    folder: Path,
    classes: Sequence[str] | None = None,
    shape: tuple[int | None, int | None, int | None] = (None, None, None),
    group_pattern: str | None = None,
    unpack_to: Path | None = None,
) -> Dataset:
    """Read pictures in folders of classes; their order is that of their paths, numbers in them compared as numbers.

    Args:
        folder: holds one folder a class, or `train`, `val` and `test` with one folder a class each.
        classes: of a model, in its order; None for the folders' own names.
        shape: (H, W, C) to bring the pictures to; a None is what all of them have in common.
        group_pattern: regular expression searched in each path; its first group, or the whole match, names what must
            stay in one split, such as the patient.
        unpack_to: a cache folder into which the pixels are decoded; None keeps them in memory.

    Raises:
        DataError: no such folders, a picture that cannot be decoded, sizes that differ, a class that the model lacks.
        ConfigError: a pattern that is no regular expression.
    """
    pictures = find_pictures(folder)
    left_out = len([path for path in files_below(folder) if path.suffix.lower() not in SUFFIXES])
    names = tuple(classes) if classes is not None else _class_names(pictures, folder)
    groups = None if group_pattern is None else _groups(pictures, group_pattern)
    height, width, channels = _common_shape(pictures, shape)
    splits, digest = {}, hashlib.md5(usedforsecurity=False)
    for split in dict.fromkeys(picture.split for picture in pictures):
        chosen = [picture for picture in pictures if picture.split == split]
        labels = _labels(chosen, names, folder)
        images = _decode(chosen, (height, width, channels), unpack_to)
        for start in range(0, len(images), 256):
            digest.update(np.ascontiguousarray(images[start : start + 256]).data)
        digest.update(labels.data)
        splits[split] = Split(images, labels)
    pool = list(splits) == ["pool"]
    return Dataset(
        name=folder.resolve().name,
        splits={"train": splits["pool"]} if pool else splits,
        classes=names,
        md5=digest.hexdigest(),
        pool_only=pool,
        source="a folder of pictures",
        groups=groups,
        notes=(f"{left_out} files in the folder are no {', '.join(SUFFIXES)} and are left out",) if left_out else (),
    )


def find_pictures(folder: Path) -> list[Picture]:
    """Return the pictures below a folder of classes, or of splits of classes; hidden files are left out.

    Raises:
        DataError: another structure, or files that are out of scope.
    """
    try:
        children = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_by_name)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; name a folder that can be read") from error
    split_of = {name: split for split, words in SPLIT_FOLDERS.items() for name in words}
    splits = {path: split_of[path.name.lower()] for path in children if path.is_dir() and path.name.lower() in split_of}
    if splits:
        others = [path.name for path in children if path.is_dir() and path not in splits]
        if others or "train" not in splits.values() and "test" not in splits.values():
            raise DataError(
                f"{folder}: has splits and {', '.join(others[:3]) or 'no train'}; use train, val, test alone"
            )
        if len(set(splits.values())) < len(splits):
            raise DataError(f"{folder}: has two folders of one split; merge {', '.join(path.name for path in splits)}")
    roots = {split: path for path, split in splits.items()} or {"pool": folder}
    pictures, empty = [], []
    for split in (name for name in ("train", "val", "test", "pool") if name in roots):
        for label in sorted((path for path in roots[split].iterdir() if path.is_dir()), key=_by_name):
            if label.name.startswith("."):
                continue
            files = [path for path in files_below(label) if path.suffix.lower() in SUFFIXES]
            pictures += [Picture(split, label.name, path, path.relative_to(folder).as_posix()) for path in files]
            empty += [] if files else [label]
    named = {picture.label for picture in pictures}
    empty = [label for label in empty if label.name not in named or files_below(label)]
    if pictures and empty:  # a class left out in silence would make the others look easy
        kinds = sorted({path.suffix.lower() or path.name for path in files_below(empty[0])})[:5]
        raise DataError(
            f"{empty[0]}: holds no picture that is read ({', '.join(SUFFIXES)}), but {', '.join(kinds) or 'nothing'}; "
            "convert its files, or remove the folder"
        )
    if not pictures:
        kinds = sorted({path.suffix.lower() for path in folder.rglob("*") if path.is_file()})
        for suffix, text in _OUT_OF_SCOPE.items():
            if suffix in kinds:
                raise DataError(f"{folder}: holds {text}")
        loose = any(path.suffix.lower() in SUFFIXES for path in children)
        what = "pictures, but not in folders of classes" if loose else f"no pictures ({', '.join(SUFFIXES)})"
        raise DataError(
            f"{folder}: holds {what}; put them into FOLDER/CLASS/ or FOLDER/train/CLASS/, FOLDER/val/CLASS/"
        )
    return pictures


def natural(name: str) -> list[Any]:
    """Return a sort key of a name in which `tile10` comes behind `tile9`: texts and numbers in turn."""
    parts: list[Any] = _NUMBERS.split(name)
    parts[1::2] = map(int, parts[1::2])
    return parts


_NUMBERS = re.compile("([0-9]{1,18})")


def _by_name(path: Path) -> list[Any]:
    return natural(path.name)


def natural_path(name: str) -> list[list[Any]]:
    """Return a sort key of a path with forward slashes, folder by folder."""
    return [natural(part) for part in name.split("/")]


def files_below(folder: Path) -> list[Path]:
    """Return the files of one class in natural order, those in folders of it and behind links too; hidden ones not.

    Raises:
        DataError: a folder that cannot be read.
    """
    return [folder / name for name in names_below(folder)]


def names_below(folder: Path) -> list[str]:
    """Return the paths below a folder of what `files_below` returns, with forward slashes.

    Raises:
        DataError: a folder that cannot be read.
    """
    found: list[tuple[list[list[Any]], str]] = []
    visited: set[str] = set()

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}; make it readable or move it away") from error

    for place, names, files in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(place)
        names[:] = [] if real in visited else [name for name in names if not name.startswith(".")]
        if real not in visited:  # a link may lead back to a folder above it
            below = Path(place).relative_to(folder).as_posix()
            prefix, key = ("", []) if below == "." else (f"{below}/", natural_path(below))
            found += [([*key, natural(name)], prefix + name) for name in files if not name.startswith(".")]
        visited.add(real)
    return [name for _, name in sorted(found)]


def _class_names(pictures: Sequence[Picture], folder: Path) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(sorted((picture.label for picture in pictures), key=natural)))
    if len(names) > MAX_CLASSES:
        raise DataError(f"{folder}: {len(names)} folders of classes; at most {MAX_CLASSES} are taken")
    if len(names) < 2:
        raise DataError(f"{folder}: one folder of pictures, {names[0]!r}; two classes are the fewest, one folder each")
    return names


def _labels(pictures: Sequence[Picture], names: tuple[str, ...], folder: Path) -> Labels:
    """Return the index of each picture's class (N,); a model without names takes folders called 0, 1, …."""
    index = {name: position for position, name in enumerate(names)}
    unknown = sorted({picture.label for picture in pictures} - set(index))
    if unknown:
        known = ", ".join(names[:12])
        raise DataError(f"{folder}: {unknown[0]!r} is no class of the model; rename the folder to one of: {known}")
    return np.array([index[picture.label] for picture in pictures], np.int64)


def _groups(pictures: Sequence[Picture], pattern: str) -> NDArray[np.int64]:
    """Return the number of each picture's group (N,)."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--group-pattern {pattern!r} is no regular expression ({error})") from error
    found = []
    for picture in pictures:
        match = compiled.search(picture.name)
        if match is None or (compiled.groups and match.group(1) is None):
            raise DataError(
                f"{picture.name}: --group-pattern {pattern!r} finds nothing in it; widen it, or move the file"
            )
        found.append(match.group(1) if compiled.groups else match.group())
    numbers: NDArray[np.int64] = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return numbers


def _common_shape(
    pictures: Sequence[Picture], shape: tuple[int | None, int | None, int | None]
) -> tuple[int, int, int]:
    """Return (H, W, C) with what is None taken from the pictures' headers.

    Raises:
        DataError: their sizes differ.
    """
    height, width, channels = shape
    if height and width and channels:
        return height, width, channels
    first: dict[tuple[int, int], str] = {}
    grey = True
    for picture in pictures:
        size, mode = _header(picture)
        first.setdefault(size, picture.name)
        grey = grey and (mode in ("1", "L") or mode.startswith("I;16"))
    if height is None or width is None:
        if len(first) > 1:
            (a, name_a), (b, name_b), *_ = first.items()
            raise DataError(
                f"the pictures have {len(first)} sizes ({name_a} {a[0]}x{a[1]}, {name_b} {b[0]}x{b[1]}, …); "
                "bring them to one with --native-size N, such as 28"
            )
        ((width, height),) = first
    return height, width, channels or (1 if grey else 3)


def _header(picture: Picture) -> tuple[tuple[int, int], str]:
    """Return size (W, H), as it will be upright, and mode of a picture without decoding it."""
    try:
        with Image.open(picture.path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.size[::-1] if turned else image.size), image.mode
    except Exception as error:  # Pillow's readers raise whatever their formats inspire
        raise DataError(
            f"{picture.path}: not a picture that can be read ({error}); fetch it again or remove it"
        ) from error


def _decode(pictures: Sequence[Picture], shape: tuple[int, int, int], unpack_to: Path | None) -> Images:
    """Return the pixels (N, H, W, C), in memory or mapped from a file that is made the first time."""
    if unpack_to is None:
        images = np.empty((len(pictures), *shape), np.uint8)
        _fill(images, pictures, shape)
        return images
    key = hashlib.sha256(repr(shape).encode())
    for picture in pictures:
        status = picture.path.stat()
        key.update(f"{picture.path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    target = unpack_to / "unpacked" / f"pictures-{key.hexdigest()[:16]}.npy"
    mapped = array_file(target, (len(pictures), *shape), lambda images: _fill(images, pictures, shape))
    return MappedRows([mapped], np.arange(len(mapped)))


def _fill(images: NDArray[np.uint8], pictures: Sequence[Picture], shape: tuple[int, int, int]) -> None:
    """Decode every picture into its row; Pillow's decoders let several threads run at once."""

    def fill(index: int) -> None:
        try:
            images[index] = fit(read_image(pictures[index].path), shape)
        except XtrainError as error:
            raise DataError(f"{error}; or remove the file") from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(pictures), 256):  # in parts, so that the first fault ends it soon
            list(pool.map(fill, range(start, min(start + 256, len(pictures)))))


def uncompressed_bytes(folder: Path, shape: tuple[int | None, int | None, int | None]) -> int:
    """Return the bytes that the pictures take once decoded, from their number and the shape."""
    pictures = find_pictures(folder)
    height, width, channels = shape
    if not (height and width):
        width, height = _header(pictures[0])[0]
    return len(pictures) * height * width * (channels or 3)
