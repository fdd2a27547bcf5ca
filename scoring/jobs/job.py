"""What a job is: a model, how images are read, and shards; the names of the files that its shards become.

A file is named by its shard's number and by a digest of everything its content depends on. Going on after a failure is
therefore listing a folder, and two jobs cannot be taken for one.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoring.options import ReadingOptions
from scoring.sources.source import Source
from serving.model.predictor import Predictor
from xtrain import __version__
from xtrain.errors import ConfigError, OutputError

FORMAT = 1
PART = re.compile(r"part-(\d+)-([0-9a-f]{12})\.parquet")


@dataclass(frozen=True)
class JobDescription:
    """What all parts of a job have in common; it stands in each part.

    Attributes:
        model: SHA-256 of the exported file.
        name: of the model.
        classes: of the model.
        on_error: what becomes of images that cannot be read.
        parts: number of shards.
        has_names: whether the images have names.
        source: digest of what all shards are known by.
        version: of this package.
        format: of the parts.
    """

    model: str
    name: str
    classes: tuple[str, ...]
    on_error: str
    parts: int
    has_names: bool
    source: str
    version: str = __version__
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "classes": list(self.classes)}

    def part_name(self, index: int) -> str:
        """Return the name of a shard's file."""
        key = f"{self.model} {self.on_error} {self.parts} {self.source} {self.version} {self.format} {index}"
        return f"part-{index:05d}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.parquet"


@dataclass(frozen=True)
class Share:
    """Which shards a process computes: every `of`-th from the `number`-th, both from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return the share of `--shard`.

        Raises:
            ConfigError: no `K/N` with 1 <= K <= N.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard is {text!r}; it must be K/N from 1/N to N/N, such as 3/100")
        return cls(int(match[1]), int(match[2]))

    def indices(self, shards: int) -> range:
        """Return the shards of this process by their numbers, from 0."""
        return range(self.number - 1, shards, self.of)


def describe_job(predictor: Predictor, reading: ReadingOptions, source: Source) -> JobDescription:
    """Return what all parts of a job have in common."""
    card, digest = predictor.card, hashlib.sha256()
    for shard in source.shards:
        digest.update(f"{shard.identity}\n\n".encode("utf-8", "surrogateescape"))
    return JobDescription(
        model=predictor.digest,
        name=card.name,
        classes=tuple(card.classes),
        on_error=reading.on_error,
        parts=len(source.shards),
        has_names=source.has_names,
        source=digest.hexdigest(),
    )


def existing_parts(folder: Path) -> dict[int, list[Path]]:
    """Return the parts in a folder by their numbers; more than one for a number is a mixture of jobs.

    Raises:
        OutputError: the folder cannot be read.
    """
    parts: dict[int, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()):
            if match := PART.fullmatch(path.name):
                parts.setdefault(int(match[1]), []).append(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; name a folder of parts") from error
    return parts


def refuse_other_job(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder with parts of another job, before anything is computed.

    Args:
        folder: of the parts.
        names: of all parts of this job.

    Raises:
        OutputError: with one of those.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; --shard writes into a folder")
    known = set(names)
    for paths in existing_parts(folder).values():
        for path in paths:
            if path.name not in known:
                raise OutputError(
                    f"{folder}: holds {path.name}, which another model, other options or other data made; name a new "
                    "folder, or remove its parts"
                )
