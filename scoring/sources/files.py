"""Pictures in files of their own as a source: a folder, a pattern such as `tiles/**/*.png`, or a list of paths."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scoring.sources.source import ImageFile, Part, Shape, Source, images_a_part
from serving.model.predictor import MAX_RUN
from xtrain.data.folders import names_below, natural_path
from xtrain.errors import DataError


@dataclass(frozen=True)
class FilesShard:
    """Some picture files; they may be missing, which then is an error of that picture."""

    name: str
    pictures: Sequence[ImageFile]
    shape: Shape

    @property
    def rows(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    @property
    def identity(self) -> str:
        """Names, sizes and times of the files."""
        return "\n".join(_stamp(picture) for picture in self.pictures)

    def parts(self) -> Iterator[Part]:
        """Yield the pictures in order."""
        size = images_a_part(self.shape, MAX_RUN)
        for start in range(0, len(self.pictures), size):
            yield Part(self.pictures[start : start + size])


def files_source(pictures: Sequence[ImageFile], shape: Shape, shard_rows: int, notes: tuple[str, ...] = ()) -> Source:
    """Return picture files in their order as a source.

    Args:
        pictures: the files.
        shape: (H, W, C) of the model's images.
        shard_rows: pictures of a shard.
        notes: what a user should know of how they were found.
    """
    shards = []
    for start in range(0, len(pictures), shard_rows):
        part = pictures[start : start + shard_rows]
        shards.append(FilesShard(f"{part[0].name} to {part[-1].name}", part, shape))
    return Source(shards, has_names=True, notes=notes)


def files_in(folder: Path) -> list[tuple[str, str]]:
    """Return all files below a folder in natural order, with their paths below it; hidden ones are left out.

    Raises:
        DataError: a folder that cannot be read.
    """
    return [(name, f"{folder}/{name}") for name in names_below(folder)]


def files_of(pattern: str) -> list[tuple[str, str]]:
    """Return the files of a pattern in natural order: `*`, `?`, `[…]`, `**`, and `{000..099}` as WebDataset has it.

    Raises:
        DataError: no file, also for one of the numbers.
    """
    paths = set()
    for single in _expand(pattern):
        found = {name for name in _glob(single) if not os.path.isdir(name)}
        if not found:
            raise DataError(f"{single}: no file is called like this; correct the pattern, or name a folder")
        paths |= found
    return [(name, name) for name in sorted(paths, key=lambda name: (natural_path(name), name))]


def is_pattern(text: str) -> bool:
    """Return whether a name that is no file stands for several."""
    return any(character in text for character in "*?[") or re.search(r"\{\d+\.\.\d+\}", text) is not None


def _expand(pattern: str) -> list[str]:
    """Return a pattern for each number of the first `{000..099}`, and so on for those behind it."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) - int(first) > 1_000_000:
        raise DataError(f"{pattern}: stands for more than a million files; name a folder")
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [expanded for number in numbers for expanded in _expand(head + number + tail)]


def _glob(pattern: str) -> list[str]:
    """Return what a pattern matches; `**` is walked as a folder is, so that a loop of links ends."""
    segments = pattern.split("/")
    if "**" not in segments:
        return glob.glob(pattern)
    fixed = next(index for index, segment in enumerate(segments) if glob.has_magic(segment))
    root = "/".join(segments[:fixed])
    prefix = f"{root}/" if fixed else ""
    if not os.path.isdir(prefix or "."):
        return []
    names = names_below(Path(prefix or "."))
    return [prefix + name for name in names if _matches(name.split("/"), segments[fixed:])]


def _matches(parts: Sequence[str], segments: Sequence[str]) -> bool:
    """Return whether the parts of a path match the segments of a pattern, of which `**` is any number of folders."""
    if not segments:
        return not parts
    if segments[0] == "**":
        return any(_matches(parts[start:], segments[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], segments[0]) and _matches(parts[1:], segments[1:])


def _stamp(picture: ImageFile) -> str:
    try:
        status = Path(picture.path).stat()
        return f"{picture.name} {status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):  # the latter for a name that no file can have
        return f"{picture.name} missing"
