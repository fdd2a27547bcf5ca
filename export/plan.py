"""What an export will do, checked before anything is computed: options, members, data, the files to write."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.options import ExportOptions
from serving.model import onnxfile, signature
from serving.model.signature import PrivateKey
from serving.model.training_rows import TrainingRows
from training.prepare import load_options
from training.runs import checkpoint
from training.runs.checkpoint import Checkpoint
from xtrain.data import catalog
from xtrain.data.datasets import Labels
from xtrain.data.splits import divide, select
from xtrain.errors import ConfigError, DataError, ExportError, OutputError
from xtrain.files import refuse_existing
from xtrain.options import check

COMPARED_IMAGES = 256  # validation rows are filled up with training rows to this many
MAX_WEIGHT_BYTES = 2**31 - 2**24  # one protocol-buffers message, less what is not weights


@dataclass(frozen=True)
class Plan:
    """An export that can begin.

    Attributes:
        checkpoints: one a run, in their order.
        output: the `.onnx` to write.
        options: how.
        labels: (V,) of the validation rows.
        images: (N, H, W, C) uint8; the validation rows first, then training rows up to `COMPARED_IMAGES`.
        key: what signs the file; None for no signature.
    """

    checkpoints: Sequence[Checkpoint]
    output: Path
    options: ExportOptions
    labels: Labels
    images: NDArray[np.uint8]
    key: PrivateKey | None = None

    @property
    def training_rows(self) -> TrainingRows | None:
        """Digests of the members' training images; None where a checkpoint does not hold them."""
        digests = [item.training_rows for item in self.checkpoints if item.training_rows is not None]
        if len(digests) < len(self.checkpoints):
            return None
        return TrainingRows.make([tensor.numpy().view(np.uint64) for tensor in digests])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Native (H, W, C) of the images."""
        return self.checkpoints[0].spec.shape

    @property
    def name(self) -> str:
        """Of the model."""
        return self.options.name or self.output.stem

    @property
    def model_card(self) -> Path:
        """The Markdown file beside the model."""
        return self.output.with_suffix(".md")

    @property
    def signature(self) -> Path:
        """The file with the model's signature."""
        return signature.sidecar(self.output)

    @property
    def sidecar(self) -> Path:
        """The file with the model's SHA-256."""
        return onnxfile.sidecar(self.output)


def make_plan(runs: Sequence[Path], output: Path, options: ExportOptions) -> Plan:
    """Check everything that can be checked before computing, and load runs and images.

    Args:
        runs: run folders or checkpoints, each once.
        output: the `.onnx` to write; `.onnx.sha256` and the model card `.md` are written beside it.
        options: how.

    Raises:
        XtrainError: of the fitting kind.
    """
    check(options)
    if not runs:
        raise ConfigError("an export needs at least one run")
    if output.suffix != ".onnx":
        raise ConfigError(f"-o {output}: name a file that ends in .onnx")
    if not all(text.isprintable() and text for text in (options.name or output.stem, options.model_version)):
        raise ConfigError("--name and --model-version take one line of printable characters")
    key = None if options.sign is None else PrivateKey.read(options.sign)
    for path in (output, output.with_suffix(".md"), onnxfile.sidecar(output), signature.sidecar(output)):
        refuse_existing(path, options.overwrite)
    _refuse_notes(output.with_suffix(".md"))
    checkpoints = [checkpoint.load(run) for run in runs]
    check_members(checkpoints)
    labels, images = _compared_images(checkpoints[0], options)
    return Plan(checkpoints, output, options, labels, images, key)


def check_members(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse runs that cannot be averaged, saying where they differ.

    Members must agree in the data and its division too: where they do not, one member's validation rows are
    another's training rows, and no figure of the ensemble would mean anything.

    Raises:
        ExportError: with the field, and both values.
    """
    first = checkpoints[0]
    for position, other in enumerate(checkpoints[1:], start=2):
        for field, left, right in (
            ("classes", first.spec.classes, other.spec.classes),
            ("image shape", first.spec.shape, other.spec.shape),
            ("data set (md5)", first.data.md5, other.data.md5),
            ("protocol", first.data.protocol, other.data.protocol),
            ("split digest", first.data.split_digest, other.data.split_digest),
        ):
            if left != right:
                raise ExportError(
                    f"runs 1 and {position} differ in {field}: {left} and {right}; "
                    "average runs of the same data and --split-seed"
                )
        if any(other.digest == earlier.digest for earlier in checkpoints[: position - 1]):
            raise ExportError(f"run {position} has the same weights as an earlier one; name different runs")


def check_size(ensemble: Any, precision: str) -> None:
    """Refuse an ensemble whose weights one protocol-buffers message cannot hold.

    Raises:
        ExportError: with the size.
    """
    values = (value for member in ensemble.classifiers for value in member.network.state_dict().values())
    size = (2 if precision == "fp16" else 4) * sum(value.numel() for value in values)
    if size > MAX_WEIGHT_BYTES:
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


def _compared_images(first: Checkpoint, options: ExportOptions) -> tuple[Labels, NDArray[np.uint8]]:
    """Return the labels of the validation rows that all members share, and the images to compare.

    Raises:
        DataError: the training data is not where it was, or is not the same.
    """
    config = first.config
    source = options.data or config.data
    loading = replace(
        load_options(config), data_dir=options.data_dir or config.data_dir, stream=None, shape=first.spec.shape
    )
    try:
        dataset = catalog.load(source, loading, classes=first.spec.classes)
    except (DataError, ConfigError) as error:
        if options.data is not None:
            raise
        raise DataError(f"the run's training data: {error}; name where it is now with --data") from error
    record = first.data
    if dataset.md5 != record.md5:
        raise DataError(
            f"{source}: md5 {dataset.md5} is not that of the training data, {record.md5}; "
            "name the file the run was trained on with --data"
        )
    partition = divide(dataset, record.protocol, split_seed=record.split_seed, val_fraction=record.val_fraction)
    if partition.digest != record.split_digest:
        raise DataError("the split cannot be rebuilt as in training; use the version that trained the run")
    validation = select(dataset, partition, "val")
    assert validation.labels is not None
    missing = max(0, COMPARED_IMAGES - len(validation))
    extra = dataset.take(partition.train[:missing])
    return validation.labels, np.concatenate([validation.images[:], extra.images[:]])
