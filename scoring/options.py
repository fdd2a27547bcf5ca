"""The options of `xeval` and `xscore`."""

from dataclasses import dataclass
from pathlib import Path

from xtrain.data.splits import PROTOCOLS, SPLITS
from xtrain.options import option


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Which rows of a data set are scored, and where."""

    split: str = option("test", choices=SPLITS, help="Which rows.")
    protocol: str | None = option(
        None,
        choices=PROTOCOLS,
        default_text="as in training, else the file's",
        help="How the file is divided into splits.",
    )
    data_dir: Path | None = option(
        None,
        default_text="$XTRAIN_DATA, else ~/.cache/xtrain",
        help="Folder in which data sets named by name are looked up and downloaded to.",
    )
    device: str = option(
        "auto", choices=("auto", "cpu", "cuda", "tensorrt"), help="Where to compute; auto: CUDA where it works."
    )
