"""The options of `xeval` and `xscore`."""

from dataclasses import dataclass
from pathlib import Path

from xtrain.data.splits import PROTOCOLS, SPLITS
from xtrain.errors import ConfigError
from xtrain.options import option

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Which rows of a data set are scored, and where."""

    split: str | None = option(
        None,
        choices=(*SPLITS, ALL),
        default_text="test; all of a pool without splits that the model was not trained on",
        help="Which rows.",
    )
    protocol: str | None = option(
        None,
        choices=PROTOCOLS,
        default_text="as in training, else the file's",
        help="How the file is divided into splits.",
    )
    allow_overlap: bool = option(
        False,
        switch=True,
        applies="`xeval`",
        help="Measure although the model was trained on more than 1 % of the images; their number stands beside the "
        "figures.",
    )
    data_dir: Path | None = option(
        None,
        default_text="$XTRAIN_DATA, else ~/.cache/xtrain",
        help="Folder in which data sets named by name are looked up and downloaded to.",
    )
    device: str = option(
        "auto", choices=("auto", "cpu", "cuda", "tensorrt"), help="Where to compute; auto: CUDA where it works."
    )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read that are to be scored."""

    on_error: str = option(
        "fail",
        metavar="fail|skip|class=K",
        help="An image that cannot be read ends the command, is left out, or gets class K; the latter two are named in "
        "OUTPUT.errors.csv.",
    )
    column: str | None = option(
        None,
        default_text="the first of the usual names",
        help="Column of a CSV or Parquet file that holds the images or their paths.",
    )
    decoders: int | None = option(
        None,
        low=1,
        high=256,
        default_text="one a core",
        help="Processes that decode image files; at most two a core are started.",
    )
    shard_rows: int = option(
        16_384, low=1, high=10_000_000, help="Images of a shard, where the data is not in files of its own."
    )


@dataclass(frozen=True)
class ErrorPolicy:
    """What becomes of an image that cannot be read: the end (`fail`), no line (`skip`), or a class."""

    action: str
    index: int | None = None

    @classmethod
    def parse(cls, text: str, classes: int) -> "ErrorPolicy":
        """Return the policy of `--on-error`.

        Raises:
            ConfigError: another word, or a class that the model does not have.
        """
        if text in ("fail", "skip"):
            return cls(text)
        word, _, number = text.partition("=")
        if word != "class" or not (number.isascii() and number.isdigit()):
            raise ConfigError(f"--on-error is {text!r}; it must be fail, skip or class=K, such as class=0")
        if int(number) >= classes:
            raise ConfigError(f"--on-error class={number}: the model's classes are 0-{classes - 1}; choose one of them")
        return cls("class", int(number))


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What is written of each image."""

    id: str = option(
        "row",
        choices=("row", "filename"),
        help="What an image is called: its number from 0, or the name of its file, key or path in a list.",
    )
    top: int | None = option(
        None,
        low=1,
        high=1000,
        default_text="1",
        help="Write the K most probable classes with their probabilities.",
        metavar="K",
    )
    probabilities: bool = option(
        False, switch=True, help="Write the probabilities of all classes too, in a column for each."
    )
    threshold: float | None = option(
        None,
        low=0.0,
        high=1.0,
        default_text="every image gets a class",
        help="Give no class (CSV: -1, JSON: null) to images whose most probable one has less than this.",
    )


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """What is computed from the scored rows."""

    bootstrap: int = option(
        1000, low=0, high=10_000, help="Resamples of the rows, within classes, for the intervals; 0 for no intervals."
    )
    sets: float | None = option(
        None,
        low=0.5,
        high=1.0,
        open_low=True,
        open_high=True,
        help="Measure conformal prediction sets of that coverage, such as 0.9; validation rows give the thresholds.",
    )
    ordinal: bool = option(
        False,
        switch=True,
        default_text="on for retinamnist",
        help="The classes are ordered: show the quadratic kappa too.",
    )


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A CSV of the labels that a data set holds back, as Kaggle gives it out."""

    path: Path
    id_column: str = "ID"
    class_column: str = "CLASS"
