"""The public functions: each loads the part it needs and calls the function that the command calls."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtrain.errors import ConfigError

if TYPE_CHECKING:
    from export.publish import Exported
    from scoring.evaluation.evaluate import Evaluation
    from scoring.options import ScoringOptions
    from scoring.score import Scored
    from serving.model.predictor import Predictor
    from training.runs.folder import Run


def train(model: str, data: str | Path | None = None, *, progress: bool = True, **options: Any) -> Run:
    """Train one model and write its run folder; what `xtrain MODEL` does.

    Args:
        model: name of an architecture; `xtrain list models` shows them.
        data: name of a data set (`pathmnist`, `mnist`, `digits`, …), path of an `.npz`, or a folder of pictures in
            folders of classes; None is PathMNIST.
        progress: whether a bar, or a line an epoch, goes to stderr.
        options: the command's options with underscores, such as `epochs=8`, `output="runs/a"`, `batch_norm=False`.

    Returns:
        The run: `folder`, `config`, `history`, `summary`, and the validation metrics of its `best` epoch.

    Raises:
        ConfigError: an option that does not exist, out of range, or in contradiction to another.
        XtrainError: of another kind, as its name says; nothing is then written, or the epochs that were complete.
    """
    from training import run

    finished = run.train(model, None if data is None else str(data), options, sys.stderr if progress else None)
    if finished is None:  # one of torchrun's processes beside the main one
        raise RuntimeError("only the main process of several has the run")
    return finished


def open_run(path: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        CheckpointError: the folder holds no run, or its files are damaged.
    """
    from training.runs.folder import open_run

    return open_run(path)


def export(runs: Run | str | Path | Sequence[Run | str | Path], output: str | Path, **options: Any) -> Exported:
    """Export one run, or several as their averaging ensemble, to one verified file; what `xexport` does.

    Args:
        runs: runs or run folders, each once.
        output: the `.onnx` to write; `.onnx.sha256` and the model card `.md` are written beside it.
        options: the command's options with underscores, such as `tta="dihedral"`, `explain=True`, `overwrite=True`.

    Returns:
        The `path`, the `card` inside the file, its `metrics` on the validation rows, and its `parity` with torch.

    Raises:
        ConfigError: an option that does not exist or is out of range.
        XtrainError: of another kind, as its name says; the files are then as they were.
    """
    from export.export import export_runs
    from export.options import ExportOptions
    from xtrain.options import make

    several = [runs] if isinstance(runs, str | Path) or hasattr(runs, "folder") else list(runs)
    folders = [Path(getattr(run, "folder", run)) for run in several]  # type: ignore[arg-type]
    return export_runs(folders, Path(output), make(ExportOptions, options))


def load(model: str | Path, device: str = "auto") -> Predictor:
    """Load an exported file; needs neither torch nor a server.

    Args:
        model: an `.onnx` that `xexport` wrote.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.

    Returns:
        A predictor: `predict` gives probabilities (N, classes), `classify` labels, `explain` heatmaps (N, H, W), each
        of an array (N, H, W, C) uint8, or of one picture or a list of them (paths or PIL images).

    Raises:
        ModelFileError: the file is missing, damaged, or not one of `xexport`.
        ConfigError: the device did not load.
    """
    from serving.model.predictor import Predictor

    return Predictor(model, device)


def evaluate(
    model: Predictor | str | Path,
    data: str | Path,
    *,
    solution: str | Path | None = None,
    compare: Sequence[str | Path] = (),
    also: Sequence[str | Path] = (),
    **options: Any,
) -> Evaluation:
    """Measure an exported model on a labelled split; what `xeval` does.

    Args:
        model: a predictor, or the path of an `.onnx`.
        data: name of a data set, path of an `.npz`, or a folder of pictures in folders of classes.
        solution: CSV with the labels that `data` holds back.
        compare: exported files, or predictions as CSV of MedMNIST's evaluator, to compare with; one for each seed.
        also: other seeds of the model, as many as `compare` has more than one.
        options: the command's with underscores: `split`, `protocol`, `allow_overlap`, `data_dir`, for a path `device`,
            `bootstrap`, `sets`, `ordinal`, and with a solution `id_column` and `class_column`.

    Returns:
        The `metrics`, with the `protocol` and the `split` they are of; in `summary` every figure with its interval,
        `sets` and `comparison` where they were asked for, and the published `baselines` of the same rows.

    Raises:
        ConfigError: an option that does not exist, or a protocol under which the model has seen the rows.
        XtrainError: of another kind, as its name says.
    """
    from scoring.evaluation.evaluate import evaluate
    from scoring.evaluation.rivals import Rivals
    from scoring.options import FigureOptions, Solution
    from xtrain.options import described, make

    columns = {name: str(options.pop(name)) for name in ("id_column", "class_column") if name in options}
    given = None if solution is None else Solution(path=Path(solution), **columns)
    figures = make(FigureOptions, {name: options.pop(name) for name in described(FigureOptions) if name in options})
    rivals = Rivals(tuple(map(Path, compare)), tuple(map(Path, also))) if compare or also else None
    return evaluate(*_scored(model, options), str(data), given, figures, rivals)


def score(
    model: Predictor | str | Path,
    data: str | Path | Iterable[tuple[str, Any]],
    output: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Scored:
    """Write the class of every image as `ID,CLASS`, in order; what `xscore` does.

    Args:
        model: a predictor, or the path of an `.onnx`.
        data: name of a data set, a file or folder of images, or an iterable of `(name, image)`, where an image is the
            bytes of a file, a path, a PIL image or an array (H, W) or (H, W, 3) uint8.
        output: the `.csv`, `.jsonl` or `.parquet` to write.
        overwrite: whether an existing file may be replaced.
        options: the command's with underscores: `split`, `protocol`, `data_dir`, for a path `device`, `on_error`,
            `column`, `decoders`, `id`, `top`, `probabilities`, `threshold`.

    Returns:
        What was written: `path`, `rows`, of them `errors`, and for a data set `split` and `protocol`.

    Raises:
        As `evaluate`; an existing file is then as it was.
    """
    from scoring.options import PredictionOptions, ReadingOptions
    from scoring.score import score
    from scoring.sources.opening import ImageInput
    from scoring.writers.output import Destination
    from xtrain.options import described, make

    parts: list[Any] = []
    for kind in (ReadingOptions, PredictionOptions):
        names = [name for name in described(kind) if name in options]
        parts.append(make(kind, {name: options.pop(name) for name in names}))
    reading, written = parts
    predictor, scoring = _scored(model, options)
    images = ImageInput(str(data) if isinstance(data, str | Path) else data, scoring, reading)
    return score(predictor, images, Destination(Path(output), overwrite, written))


def _scored(model: Predictor | str | Path, options: dict[str, Any]) -> tuple[Predictor | Path, ScoringOptions]:
    """Return the model and the checked options of `evaluate` and `score`."""
    from scoring.options import ScoringOptions
    from xtrain.options import make

    if isinstance(model, str | Path):
        return Path(model), make(ScoringOptions, options)
    if "device" in options:
        raise ConfigError("device belongs to xtrain.load; a predictor stays where it was loaded")
    return model, make(ScoringOptions, options)
