"""Computes a share of a job's shards into a folder; what `xscore --shard K/N` does.

The processes of a job know nothing of each other: each computes what is not there yet. Whichever comes last writes the
manifest.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.jobs.job import JobDescription, Share, describe_job, refuse_other_job
from scoring.jobs.parts import read_description, write_part
from scoring.options import ErrorPolicy
from scoring.score import Progress
from scoring.scorer import Scorer
from scoring.sources.opening import ImageInput, open_source
from scoring.sources.source import Source
from scoring.sources.tables import import_parquet
from scoring.writers.output import WRITERS
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError
from xtrain.files import STANDARD_OUTPUT, open_atomic

MANIFEST = "_MANIFEST.json"


@dataclass(frozen=True)
class ShareDone:
    """What a process did.

    Attributes:
        folder: of the parts.
        computed: shards that it computed, and their images.
        rows: their images.
        present: shards of its share that were there already.
        complete: parts in the folder, and of the whole job.
        parts: of the whole job.
        notes: what a user should know of how the images were read.
    """

    folder: Path
    computed: int
    rows: int
    present: int
    complete: int
    parts: int
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for a person."""
        there = f", {self.present} were there already" if self.present else ""
        state = f"{self.complete} of {self.parts} parts"
        if self.complete == self.parts:
            state = f"all {self.parts} parts are complete; xscore merge {self.folder} -o predictions.csv"
        line = f"{self.folder}: {self.computed} shards, {self.rows} predictions{there}; {state}"
        return "\n".join([line, *self.notes])


def score_share(
    model: Predictor | Path, images: ImageInput, folder: Path, share: Share, progress: Progress | None = None
) -> ShareDone:
    """Compute the shards of a share that are not there yet.

    Args:
        model: an exported file, loaded or not.
        images: what is scored, and how it is read; no iterable, which cannot be read twice.
        folder: of the parts; it may be shared with other processes and machines.
        share: which shards.
        progress: called after every part of a shard.

    Raises:
        OutputError: the folder holds parts of another job.
        XtrainError: of another kind; the parts that were complete stay.
    """
    images.check()
    if not isinstance(images.data, str):
        raise ConfigError("an iterable has no shards that could be read again; write one file, or name files")
    if str(folder) in STANDARD_OUTPUT or folder.suffix.lower() in WRITERS:
        raise ConfigError(f"--shard writes a file for each shard into a folder, and {folder} is none; name one with -o")
    import_parquet()
    predictor = model if isinstance(model, Predictor) else Predictor(model, images.options.device)
    policy = ErrorPolicy.parse(images.reading.on_error, len(predictor.card.classes))
    source = open_source(images, predictor.card)
    job = describe_job(predictor, images.reading, source)
    names = [job.part_name(index) for index in range(len(source.shards))]
    refuse_other_job(folder, names)
    todo = [index for index in share.indices(len(names)) if not (folder / names[index]).exists()]
    computed = rows = 0
    total = _rows_of(source, todo)
    with Scorer(predictor, policy, images.reading.decoders) as scorer:
        for index in todo:
            if (folder / names[index]).exists():  # another process was asked for the same meanwhile
                continue
            counter = _Counter(progress, rows, total)
            rows += write_part(folder / names[index], job, scorer, source.shards[index], counter)
            computed += 1
    present = len(share.indices(len(names))) - computed
    complete = sum((folder / name).exists() for name in names)
    if complete == len(names):
        write_manifest(folder, names)
    return ShareDone(folder, computed, rows, present, complete, len(names), source.notes)


def write_manifest(folder: Path, names: list[str]) -> None:
    """Write what a complete job consists of; every process would write the same bytes.

    Raises:
        DataError: a part is damaged.
        OutputError: it cannot be written.
    """
    parts: list[dict[str, Any]] = []
    job: JobDescription | None = None
    first = errors = 0
    for name in names:
        job, rows, bad = read_description(folder / name)
        parts.append({"file": name, "first": first, "rows": rows})
        first, errors = first + rows, errors + bad
    described = {} if job is None else job.as_json()
    text = json.dumps({"job": described, "rows": first, "errors": errors, "parts": parts}, indent=1, sort_keys=True)
    with open_atomic(folder / MANIFEST, "w") as file:
        file.write(text + "\n")


class _Counter:
    """Adds up the images of a shard's parts for a progress bar."""

    def __init__(self, progress: Progress | None, done: int, total: int | None) -> None:
        self._progress, self._done, self._total = progress, done, total

    def __call__(self, images: int) -> None:
        self._done += images
        if self._progress:
            self._progress(self._done, self._total)


def _rows_of(source: Source, indices: list[int]) -> int | None:
    counts = [source.shards[index].rows for index in indices]
    return None if None in counts else sum(count or 0 for count in counts)
