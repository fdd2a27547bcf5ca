"""Makes one file of predictions out of the parts of a job; refuses gaps, duplicates and mixtures."""

from collections.abc import Callable
from pathlib import Path

from scoring.jobs.job import JobDescription, existing_parts
from scoring.jobs.parts import read_description, read_part
from scoring.jobs.shards import write_manifest
from scoring.options import ErrorPolicy
from scoring.score import Scored
from scoring.writers.output import Destination, open_predictions
from xtrain.errors import ConfigError, DataError
from xtrain.options import check


def merge(folder: Path, destination: Destination, progress: Callable[[int, int], None] | None = None) -> Scored:
    """Write the predictions of all parts in order, as one process would have written them.

    Args:
        folder: of the parts.
        destination: where the predictions go, and what is written.
        progress: called after every few rows.

    Raises:
        DataError: a part is missing, damaged, there twice, or of another job.
        ConfigError: names are asked for, and the images have none.
        OutputError: the file cannot be written; an existing one is then as it was.
    """
    check(destination.options)
    paths, job, counts = _complete(folder)
    destination.check(paths)
    if destination.options.id == "filename" and not job.has_names:
        raise ConfigError("--id filename: these images are rows of an array and have no names; use --id row")
    write_manifest(folder, [path.name for path in paths])
    for unfinished in folder.glob(".part-*.tmp"):  # of processes that were killed
        unfinished.unlink(missing_ok=True)
    total = sum(counts)
    if not total:
        raise DataError(f"{folder}: its parts hold no images; score other data")
    with open_predictions(destination, job.classes, ErrorPolicy.parse(job.on_error, len(job.classes))) as predictions:
        for path, count in zip(paths, counts, strict=True):
            before = predictions.rows
            for rows in read_part(path, before):
                predictions.add(rows)
                if progress:
                    progress(predictions.rows, total)
            if predictions.rows - before != count:
                raise DataError(f"{path}: names {count} rows and holds {predictions.rows - before}; score it again")
    return Scored(
        destination.path,
        predictions.rows,
        predictions.errors,
        predictions.left_out,
        notes=tuple(predictions.reasons),
    )


def _complete(folder: Path) -> tuple[list[Path], JobDescription, list[int]]:
    """Return the parts in order, their job, and their numbers of rows.

    Raises:
        DataError: they are not all parts of one job.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the one that xscore --shard wrote into")
    parts = existing_parts(folder)
    if not parts:
        raise DataError(f"{folder}: holds no parts; name the folder that xscore --shard wrote into")
    for index, paths in parts.items():
        if len(paths) > 1:
            raise DataError(
                f"{folder}: part {index} is there twice, {paths[0].name} and {paths[1].name}, of other data, models or "
                "options; remove those of the job that is not meant"
            )
    ordered = [parts[index][0] for index in sorted(parts)]
    described = [read_description(path) for path in ordered]
    job = described[0][0]
    for path, (other, _, _) in zip(ordered, described, strict=True):
        if other != job:
            differing = next(name for name, value in job.as_json().items() if other.as_json()[name] != value)
            raise DataError(f"{path}: another job than {ordered[0].name} (other {differing}); remove one job's parts")
    missing = [index for index in range(job.parts) if index not in parts]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise DataError(
            f"{folder}: {len(missing)} of {job.parts} parts are missing ({shown}); run their --shard again, which "
            "computes only these"
        )
    if max(parts) >= job.parts:
        raise DataError(f"{folder}: part {max(parts)} is beyond the {job.parts} of its job; remove it")
    return ordered, job, [rows for _, rows, _ in described]
