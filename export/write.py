"""From runs to one verified file: weigh, calibrate, trace, strip, compare, describe, and only then take the names."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.calibration import calibrate, fit_temperature
from export.model_card import document
from export.graph import VIEWS, Ensemble, check_members
from export.verify import GATES, Parity, compare, compare_heatmaps
from export.weigh import parse_weights, select_greedily
from serving.model import onnxfile
from serving.model.card import HEATMAP, INPUT, KEY, OUTPUT, Card
from serving.model.predictor import Predictor
from xtrain.data import catalog
from training.runs import checkpoint
from xtrain.files import refuse_existing, replacing
from training.runs.checkpoint import Checkpoint
from xtrain.data.datasets import Split
from training.runs.environment import choose_device, git_commit, package_versions
from xtrain.errors import ConfigError, DataError, ExportError, OutputError
from xtrain.metrics import Metrics, calibration_bins, evaluate
from xtrain.data.splits import gather, partition

OPSET = 20
PARITY_IMAGES = 256  # validation rows are filled up with training rows to this many
BATCH = {"cpu": 32, "cuda": 256}  # images in torch at a time, views counted
LIMIT = 2**31 - 2**24  # bytes of one protocol-buffers message, less what is not weights


@dataclass(frozen=True)
class Options:
    """How runs become a file.

    `name` None is the file's stem; `version` is the user's; `weights` None are equal ones, else `auto` or numbers
    such as `0.6,0.4`; `calibrate` fits a temperature; `tta` averages over the dihedral views; `explain` adds the
    heatmap; `device` is where the comparison runs, `auto` on CUDA for each of torch and onnxruntime that has it.
    """

    name: str | None = None
    version: str = "1"
    weights: str | None = None
    calibrate: bool = True
    tta: bool = False
    explain: bool = False
    precision: str = "fp32"
    device: str = "cpu"


@dataclass(frozen=True)
class Exported:
    """What an export can tell; `left_out` are the runs, from 1, that greedy selection gave no weight."""

    card: Card
    parity: Parity
    metrics: Metrics
    bytes: int
    left_out: tuple[int, ...] = ()


def export_runs(
    runs: Sequence[Path],
    output: Path,
    options: Options | None = None,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export one run, or several as their averaging ensemble.

    Args:
        runs: run folders or checkpoints, each once.
        output: the `.onnx` to write; `.onnx.sha256` and the model card `.md` go beside it.
        options: how.
        data: where the training data is now, if it has moved.
        data_dir: where named sets lie.
        overwrite: whether existing files may be replaced.

    Raises:
        XtrainError: of the fitting kind; `output` and the files beside it are then as they were.
    """
    options = options or Options()
    if output.suffix != ".onnx":
        raise ConfigError(f"-o {output}: name a file that ends in .onnx")
    if not (options.name or output.stem).isprintable() or not options.version.isprintable():
        raise ConfigError("--name and --model-version take one line of printable characters")
    beside = output.with_suffix(".md"), onnxfile.sidecar(output)
    for path in (output, *beside):
        refuse_existing(path, overwrite)
    _refuse_notes(beside[0])
    checkpoints = [checkpoint.load(Path(run)) for run in runs]
    check_members(checkpoints)
    weights = None
    if options.weights not in (None, "auto"):
        weights = parse_weights(str(options.weights), len(checkpoints))
    ensemble = make(checkpoints, weights, options)
    if options.weights != "auto":  # which may leave members out
        check_size(ensemble, options.precision)
    val, images = _images(checkpoints[0], data, data_dir)
    assert val.labels is not None
    labels = val.labels

    parts = answers(ensemble, images, options.device)
    kept = list(range(len(checkpoints)))
    if options.weights == "auto":
        weights = select_greedily(parts[:, : len(val)].numpy(), labels)
        kept = [index for index, weight in enumerate(weights) if weight > 0]
        weights = [weights[index] for index in kept]
        checkpoints, parts = [checkpoints[index] for index in kept], parts[kept]
        ensemble = make(checkpoints, weights, options)
        check_size(ensemble, options.precision)
    plain = ensemble.combine(list(parts)).numpy()
    if options.calibrate:
        ensemble.temperature = fit_temperature(labels, plain[: len(val)])
    expected = ensemble.combine(list(parts)).numpy()
    # Heatmaps need the whole forward pass again, so a first batch must do; enough to see a wrong graph.
    seen = images[: BATCH["cpu"]]
    shown = _explained(ensemble, seen, options.device) if options.explain else None

    if options.precision == "fp16":
        ensemble.halve()
    model = trace(ensemble, checkpoints[0].spec.shape)
    card = _card(checkpoints, ensemble, options, output)
    # Entered last, left first: the model takes its name before the two files that speak of it.
    with replacing(beside[0]) as readable, replacing(beside[1]) as digest, replacing(output) as temporary:
        _save(model, card, temporary)
        predictor = Predictor(temporary, options.device)
        if shown:
            answer, heatmaps = predictor.explain(images)
            compare_heatmaps(shown, (answer, heatmaps), GATES[options.precision])
        else:
            answer = predictor.predict(images)
        parity = compare(expected, answer, labels, GATES[options.precision], predictor.provider)
        metrics = evaluate(labels, answer[: len(val)])
        card = replace(
            card,
            metrics=[{"protocol": checkpoints[0].data.protocol, "split": "val", **metrics.as_json()}],
            parity=parity.as_json(),
            calibration=calibrate(labels, plain[: len(val)], answer[: len(val)], ensemble.temperature).as_json()
            if ensemble.temperature is not None
            else None,
        )
        _save(model, card, temporary)
        Predictor(temporary, "cpu")
        size = temporary.stat().st_size
        digest.write_text(f"{onnxfile.sha256(temporary)}  {output.name}\n", encoding="utf-8")
        bins = calibration_bins(labels, answer[: len(val)])
        readable.write_text(document(card, metrics, bins), encoding="utf-8")
        # Should the machine stop between the renames, a model without a digest is left, never one with a wrong one.
        beside[1].unlink(missing_ok=True)
    left_out = tuple(index + 1 for index in range(len(runs)) if index not in kept)
    return Exported(card, parity, metrics, size, left_out)


def make(checkpoints: Sequence[Checkpoint], weights: Sequence[float] | None, options: Options) -> Ensemble:
    """The module to export, in evaluation mode on the CPU.

    Raises:
        ExportError: options that the members do not take.
    """
    members = [item.classifier() for item in checkpoints]
    return Ensemble(members, weights, tta=options.tta, explain=options.explain).eval()


def check_size(ensemble: Ensemble, precision: str) -> None:
    """Refuse what one protocol-buffers message cannot hold.

    Raises:
        ExportError: with the size.
    """
    values = (value for member in ensemble.classifiers for value in member.network.state_dict().values())
    size = (2 if precision == "fp16" else 4) * sum(value.numel() for value in values)
    if size > LIMIT:
        raise ExportError(
            f"the members' weights are {size / 1e9:.1f} GB and one ONNX file holds 2.1 GB; average fewer runs or use "
            "--precision fp16"
        )


def _refuse_notes(path: Path) -> None:
    """Refuse to replace a Markdown file that no export wrote: a README is easily beside a model of its name.

    Raises:
        OutputError: it is somebody's.
    """
    if not path.exists():
        return
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        if re.match(r"# .+, version .+", file.readline()):
            return
    raise OutputError(f"{path}: is no model card of an export and would be replaced; choose another -o")


@torch.inference_mode()
def answers(ensemble: Ensemble, images: NDArray[np.uint8], device: str) -> torch.Tensor:
    """Each member's probabilities (members, N, classes) of images (N, H, W, C), on the CPU, uncalibrated."""
    with _on(ensemble, device) as there:
        parts = [
            torch.stack(ensemble.member_probabilities(batch.to(there))).cpu()
            for batch in _batches(ensemble, images, there.type)
        ]
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def _explained(
    ensemble: Ensemble, images: NDArray[np.uint8], device: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (N, classes) and heatmaps (N, H, W) by torch."""
    with _on(ensemble, device) as there:
        pairs = [ensemble(batch.to(there)) for batch in _batches(ensemble, images, there.type)]
    probabilities, heatmaps = (torch.cat([pair[index].cpu() for pair in pairs]).numpy() for index in range(2))
    return probabilities, heatmaps[:, 0]


@contextlib.contextmanager
def _on(ensemble: Ensemble, device: str) -> Iterator[torch.device]:
    """Have the module on a device for a while, without the shortened products of TF32 that a gate would see."""
    there = choose_device(device)
    torch.backends.cudnn.allow_tf32 = False
    ensemble.to(there)
    try:
        yield there
    finally:
        ensemble.to("cpu")


def _batches(ensemble: Ensemble, images: NDArray[np.uint8], kind: str) -> Iterator[torch.Tensor]:
    rows = max(1, BATCH[kind] // (VIEWS if ensemble.tta else 1))
    for start in range(0, len(images), rows):
        yield torch.from_numpy(images[start : start + rows])


def trace(ensemble: Ensemble, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Turn the module into a self-contained ONNX graph with a free batch dimension."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    names = [OUTPUT, HEATMAP] if ensemble.explained else [OUTPUT]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
        program = torch.onnx.export(
            ensemble,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=names,
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


def _images(first: Checkpoint, data: str | None, data_dir: str | None) -> tuple[Split, NDArray[np.uint8]]:
    """The validation rows all members share, and their images filled up with training rows for the comparison.

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
    val, extra = gather(dataset, divided, "val"), dataset.gather(divided.train[:missing])
    return val, np.concatenate([val.images[:], extra.images[:]])


def _card(checkpoints: Sequence[Checkpoint], ensemble: Ensemble, options: Options, output: Path) -> Card:
    """What is known before the comparison."""
    first = checkpoints[0]
    height, width, channels = first.spec.shape
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
        for item, weight in zip(checkpoints, ensemble.weights, strict=True)
    ]
    heatmap = {
        "name": HEATMAP,
        "shape": ["N", 1, height, width],
        "range": [0, 1],
        "of": "the top class",
        "method": "Grad-CAM in closed form; a class activation map behind global average pooling",
    }
    return Card(
        name=options.name or output.stem,
        version=options.version,
        members=members,
        data=first.data.as_json(),
        classes=first.spec.classes,
        input={
            "name": INPUT,
            "shape": ["N", height, width, channels],
            "dtype": "uint8",
            "colour": "RGB" if channels == 3 else "grey",
        },
        metrics=[],
        weighting={None: "equal", "auto": "greedy"}.get(options.weights, "given"),
        calibration=None,
        tta="dihedral" if options.tta else None,
        explain=heatmap if options.explain else None,
        precision=options.precision,
        parity={},
        packages=package_versions(),
        git_commit=git_commit(),
    )
