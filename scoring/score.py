"""Predictions of images as a file; what `xscore` and `xtrain.score` call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scoring.options import ErrorPolicy
from scoring.readers import overlap_in_words
from scoring.scorer import Scorer
from scoring.sources.opening import ImageInput, open_source
from scoring.sources.source import Source
from scoring.writers.output import Destination, open_predictions
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError, DataError
from xtrain.files import STANDARD_OUTPUT
from xtrain.options import check

Progress = Callable[[int, int | None], None]  # images done, and all where that is known


@dataclass(frozen=True)
class Scored:
    """What was written.

    Attributes:
        path: where.
        rows: number of images.
        errors: of them, those that could not be read.
        left_out: of these, those that have no line.
        split: of a data set, None for anything else.
        protocol: likewise.
        overlap: how many the model was trained on, in words; None for none.
        notes: what a user should know of how the images were read.
    """

    path: Path
    rows: int
    errors: int = 0
    left_out: int = 0
    split: str | None = None
    protocol: str | None = None
    overlap: str | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for a person, and others for what deserves attention."""
        parts = [f"{self.path}: {self.rows - self.left_out} predictions"]
        parts += [f"{self.split} split, {self.protocol} protocol"] if self.split else []
        lines = [", ".join(parts), *self.notes]
        if self.errors:
            text = f"{self.errors} of {self.rows} images could not be read"
            listed = str(self.path) not in STANDARD_OUTPUT
            lines.append(f"{text}; {self.path.with_suffix('.errors.csv')} names them" if listed else text)
        return "\n".join(lines if self.overlap is None else [*lines, self.overlap])


def score(
    model: Predictor | Path, images: ImageInput, destination: Destination, progress: Progress | None = None
) -> Scored:
    """Write the class of every image, in order.

    Args:
        model: an exported file, loaded or not.
        images: what is scored, and how it is read.
        destination: where the predictions go.
        progress: called after every part.

    Raises:
        XtrainError: of the fitting kind; an existing file is then as it was.
    """
    images.check()
    check(destination.options)
    inputs: list[str | Path] = [model.path if isinstance(model, Predictor) else model]
    destination.check([*inputs, images.data] if isinstance(images.data, str) else inputs)
    predictor = model if isinstance(model, Predictor) else Predictor(model, images.options.device)
    policy = ErrorPolicy.parse(images.reading.on_error, len(predictor.card.classes))
    source = open_source(images, predictor.card)
    destination.refuse_inputs(source.files)
    check_names(source, destination.options.id)
    with Scorer(predictor, policy, images.reading.decoders) as scorer:
        with open_predictions(destination, predictor.card.classes, policy) as predictions:
            for shard in source.shards:
                for rows in scorer.rows(shard, predictions.rows):
                    predictions.add(rows)
                    if progress:
                        progress(predictions.rows, source.rows)
            if not predictions.rows:
                raise DataError(f"{_name(images)}: holds no images; name other data")
        overlap = overlap_in_words(scorer.seen, predictions.rows) if scorer.seen else None
    return Scored(
        destination.path,
        predictions.rows,
        predictions.errors,
        predictions.left_out,
        source.split,
        source.protocol,
        overlap,
        (*source.notes, *predictions.reasons),
    )


def check_names(source: Source, id_kind: str) -> None:
    """Refuse names where images have none, before anything is computed.

    Raises:
        ConfigError: as said.
    """
    if id_kind == "filename" and not source.has_names:
        raise ConfigError("--id filename: these images are rows of an array and have no names; use --id row")


def _name(images: ImageInput) -> str:
    return images.data if isinstance(images.data, str) else "the iterable"
