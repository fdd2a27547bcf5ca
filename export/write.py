"""From runs to one verified file: trace, strip, describe, compare, and only then take the name."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from export.graph import Ensemble, check_members
from export.parity import Parity, compare
from serving.card import INPUT, KEY, OUTPUT, Card
from serving.predictor import Predictor
from training import catalog, checkpoint
from training.atomic import refuse_existing, replacing
from training.checkpoint import Checkpoint
from training.datasets import Split
from training.environment import git_commit, package_versions
from training.errors import DataError, ExportError
from training.metrics import Metrics, evaluate
from training.splits import gather, partition

OPSET = 20
PARITY_IMAGES = 256  # validation rows are filled up with training rows to this many


@dataclass(frozen=True)
class Exported:
    """What an export can tell."""

    card: Card
    parity: Parity
    metrics: Metrics
    bytes: int


def export_runs(
    runs: Sequence[Path],
    output: Path,
    *,
    name: str | None = None,
    version: str = "1",
    data: str | None = None,
    data_dir: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export one run, or several as their averaging ensemble.

    Args:
        runs: run folders or checkpoints, each once.
        output: the `.onnx` to write.
        name: of the model, by default the file's stem.
        version: the user's version of it.
        data: where the training data is now, if it has moved.
        data_dir: where named sets lie.
        overwrite: whether an existing file may be replaced.

    Raises:
        XtrainError: of the fitting kind; `output` is then as it was.
    """
    refuse_existing(output, overwrite)
    checkpoints = [checkpoint.load(Path(run)) for run in runs]
    check_members(checkpoints)
    weights = [1 / len(checkpoints)] * len(checkpoints)
    ensemble = Ensemble([item.classifier() for item in checkpoints], weights).eval()
    val, extra = _images(checkpoints[0], data, data_dir)
    model = trace(ensemble, checkpoints[0].spec.shape)
    with replacing(output) as temporary:
        card = _card(checkpoints, weights, name or output.stem, version, {})
        _save(model, card, temporary)
        parity = compare(
            ensemble, Predictor(temporary, "cpu").predict, np.concatenate([val.images[:], extra.images[:]])
        )
        assert val.labels is not None
        metrics = evaluate(val.labels, parity.probabilities[: len(val)])
        card = _card(checkpoints, weights, name or output.stem, version, metrics.as_json())
        _save(model, card, temporary)
        Predictor(temporary, "cpu")
        size = temporary.stat().st_size
    return Exported(card, parity, metrics, size)


def trace(ensemble: Ensemble, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Turn the module into a self-contained ONNX graph with a free batch dimension."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
        program = torch.onnx.export(
            ensemble,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on nodes and values: stack traces of this machine, different on the next."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def _save(model: onnx.ModelProto, card: Card, path: Path) -> None:
    """Put the card in, check the graph and write it."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX ({error}); no file was written") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def _images(first: Checkpoint, data: str | None, data_dir: str | None) -> tuple[Split, Split]:
    """The validation rows all members share, and training rows to fill them up for the comparison.

    Raises:
        DataError: the training data is not where it was, or is not the same.
    """
    dataset = catalog.load(data or first.config.data, data_dir, classes=first.spec.classes)
    record = first.data
    if dataset.md5 != record.md5:
        raise DataError(
            f"{data or first.config.data}: md5 {dataset.md5} is not that of the training data, {record.md5}; "
            "name the file the run was trained on with --data"
        )
    divided = partition(dataset, record.protocol, split_seed=record.split_seed, val_fraction=record.val_fraction)
    if divided.digest != record.split_digest:
        raise DataError("the split cannot be rebuilt as in training; use the version that trained the run")
    missing = max(0, PARITY_IMAGES - len(divided.val))
    return gather(dataset, divided, "val"), dataset.gather(divided.train[:missing])


def _card(
    checkpoints: Sequence[Checkpoint],
    weights: Sequence[float],
    name: str,
    version: str,
    metrics: dict[str, Any],
) -> Card:
    first = checkpoints[0]
    members = [
        {
            "architecture": item.spec.architecture,
            "options": item.spec.options,
            "seed": item.config.seed,
            "digest": item.digest,
            "epoch": item.epoch,
            "weight": weight,
            "image_size": item.spec.image_size,
            "crop": item.spec.crop,
            "mean": list(item.spec.mean),
            "std": list(item.spec.std),
        }
        for item, weight in zip(checkpoints, weights, strict=True)
    ]
    return Card(
        name=name,
        version=version,
        members=members,
        data=first.data.as_json(),
        classes=first.spec.classes,
        input={
            "name": INPUT,
            "shape": ["N", *first.spec.shape],
            "dtype": "uint8",
            "colour": "RGB" if first.spec.shape[2] == 3 else "grey",
        },
        metrics=[{"protocol": first.data.protocol, "split": "val", **metrics}] if metrics else [],
        packages=package_versions(),
        git_commit=git_commit(),
    )
