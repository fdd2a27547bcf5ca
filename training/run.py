"""One training run from end to end: options to data to network to loop to report.

`train` is what the command and `xtrain.train` call.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from training.config import RunOptions, TrainConfig, divide, resolve
from training.loop.device import choose_device, choose_precision, keep_freed_memory, make_deterministic, seed_everything
from training.loop.distributed import Process, check_batch, process_group
from training.loop.estimate import estimate
from training.loop.loader import class_counts
from training.loop.trainer import Splits, Trainer, memory_advice
from training.models.architecture import IMAGENET_MEAN, IMAGENET_STD
from training.models.classifier import Classifier, ModelSpec
from training.models.pretrained import load_pretrained, load_weights_file
from training.models.registry import find, find_recipe
from training.runs import checkpoint, folder
from training.runs.checkpoint import Checkpoint, DataRecord
from training.runs.environment import describe_environment
from training.runs.folder import Run, RunFolder, open_run
from training.runs.history import Outcome
from training.runs.progress import Progress, choose_progress
from training.runs.recorder import Recorder
from training.runs.report import summarise, write_report
from training.runs.resume import best_metrics, check_same_data, load_interrupted, resumed_config
from xtrain.data import catalog
from xtrain.data.datasets import Dataset, Images, channel_statistics
from xtrain.data.splits import Partition, select
from xtrain.data.splits import divide as divide_rows
from xtrain.errors import ConfigError, DataError, XtrainError


class Interrupted(XtrainError):
    """The user stopped training; the epochs that were complete are kept."""


@dataclass(frozen=True)
class Prepared:
    """A configuration in which nothing is left open, and the data it works on."""

    config: TrainConfig
    splits: Splits
    record: DataRecord
    spec: ModelSpec

    @property
    def input_size(self) -> int:
        """Side of the network's input in pixels."""
        return self.spec.crop or self.spec.image_size


def prepare(config: TrainConfig, options: RunOptions | None = None) -> Prepared:
    """Load and divide the data, and settle what the configuration leaves to it.

    Raises:
        XtrainError: of the fitting kind, before anything is written.
    """
    options = options or RunOptions()
    dataset = catalog.load(config.data, options.data_dir, stream=options.stream)
    if config.augment is None:
        default = find_recipe(find(config.model), config.recipe).values()["augment"]
        config = replace(config, augment="none" if dataset.upright else default)
    partition = divide_rows(dataset, config.protocol, split_seed=config.split_seed, val_fraction=config.val_fraction)
    splits = Splits(select(dataset, partition, "train"), select(dataset, partition, "val"))
    if splits.train.labels is None or splits.val.labels is None:
        raise DataError(f"{dataset.name}: training and validation rows need labels")
    if len(splits.train) < 2:
        raise DataError(f"{dataset.name}: one training row is too few; batches need at least 2")
    spec = _model_spec(config, dataset, splits.train.images)
    return Prepared(config, splits, _data_record(config, dataset, partition), spec)


def _model_spec(config: TrainConfig, dataset: Dataset, train_images: Images) -> ModelSpec:
    """Settle size and statistics from the configuration and the training rows, and from no other rows."""
    height, width, channels = dataset.shape
    mean, std = _statistics(config, train_images, channels)
    return ModelSpec(
        architecture=config.model,
        switches=config.switches,
        classes=dataset.classes,
        shape=dataset.shape,
        image_size=config.image_size or max(height, width),
        crop=config.crop,
        mean=mean,
        # A constant channel has no deviation; dividing by 1 leaves it constant instead of infinite.
        std=tuple(value or 1.0 for value in std),
    )


def _statistics(config: TrainConfig, images: Images, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation a channel; of published ones, grey images get the average of the colours."""
    if config.statistics == "dataset":
        return channel_statistics(images)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    published = find(config.model).weights
    if config.statistics == "pretrained" and published:
        mean, std = published.mean, published.std
    return (mean, std) if channels == 3 else ((sum(mean) / 3,), (sum(std) / 3,))


def _data_record(config: TrainConfig, dataset: Dataset, partition: Partition) -> DataRecord:
    """Return what identifies the data and its division."""
    return DataRecord(
        name=dataset.name,
        md5=dataset.md5,
        licence=dataset.licence,
        source=dataset.source,
        protocol=partition.protocol,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        split_digest=partition.digest,
        rows={name: len(partition.rows(name)) for name in ("train", "val", "test")},
    )


def dry_run(model: str, data: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run would do: the resolved configuration, its recipe's note, parameters, and an estimate of memory.

    Raises:
        XtrainError: as `train`.
    """
    run_options, settings = divide(options)
    if run_options.resume is not None:
        raise ConfigError("--dry-run shows a new run; leave --resume out")
    device = choose_device(run_options.device)
    config = resolve(model, data or catalog.DEFAULT, **settings)
    ready = prepare(replace(config, precision=choose_precision(config.precision, device)), run_options)
    image_bytes = ready.splits.train.images.nbytes + ready.splits.val.images.nbytes
    memory = estimate(ready.config, ready.spec, image_bytes)
    return {
        "config": ready.config.as_json(),
        "note": find_recipe(find(model), config.recipe).note,
        "model": ready.spec.as_json(),
        "data": ready.record.as_json(),
        "device": str(device),
        "memory_bytes": {**asdict(memory), "total": memory.total},
    }


def train(model: str, data: str | None, options: Mapping[str, Any], progress: TextIO | None = None) -> Run | None:
    """Train one model and write its run folder.

    Args:
        model: a key of the registry.
        data: name or path of a data set; None is PathMNIST, or what the resumed run was trained on.
        options: fields of `TrainConfig` and `RunOptions`, and switches of the architecture; None is the default.
        progress: where a bar or a line an epoch goes; None for nowhere.

    Returns:
        The run; None on a process that is not the main one of several.

    Raises:
        XtrainError: any fault of the input, before anything is written; or an interruption.
    """
    run_options, settings = divide(options)
    config, saved, output = _configured(model, data, run_options, settings)
    run = RunFolder(output, run_options.overwrite, resume=saved is not None)
    if config.deterministic:
        make_deterministic()
    device = choose_device(run_options.device)
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(device) as process:
        check_batch(config.batch_size, process.world_size)
        ready = prepare(replace(config, precision=choose_precision(config.precision, device)), run_options)
        if saved:
            check_same_data(saved, ready.record, output)
        watchers = _watchers(run, ready, run_options, progress) if process.is_main else []
        if data is None and saved is None and process.is_main and progress is not None:
            note = find_recipe(find(model), ready.config.recipe).note
            progress.write(f"note: {note}\n" if note else "")
        with memory_advice(ready.config, ready.input_size):
            trainer = _make_trainer(ready, process, run, watchers, saved)
            try:
                outcome = trainer.fit()
            except KeyboardInterrupt:
                raise Interrupted(_interruption(trainer, output, model)) from None
        if process.is_main:
            _report(run, ready, outcome)
    return open_run(output) if process.is_main else None


def _configured(
    model: str, data: str | None, run_options: RunOptions, settings: Mapping[str, Any]
) -> tuple[TrainConfig, Checkpoint | None, Path]:
    """Return the configuration, the checkpoint to resume from, and the run folder's path."""
    if run_options.resume is not None:
        if run_options.output is not None or run_options.overwrite:
            raise ConfigError("--resume writes where it reads; leave -o and --overwrite out")
        saved = load_interrupted(run_options.resume, find(model).name)
        return resumed_config(saved, data, settings), saved, run_options.resume
    config = resolve(model, data or catalog.DEFAULT, **settings)
    stem = Path(config.data).stem if config.data.endswith(".npz") else config.data
    return config, None, run_options.output or Path("runs") / f"{model}-{stem}-seed{config.seed}"


def _watchers(run: RunFolder, ready: Prepared, options: RunOptions, progress: TextIO | None) -> list[Progress]:
    watchers: list[Progress] = [choose_progress(progress)] if progress is not None else []
    if options.tensorboard:
        from training.runs.tensorboard import TensorBoard

        watchers.append(TensorBoard(run / folder.TENSORBOARD, ready.spec.classes))
    return watchers


def _make_trainer(
    ready: Prepared, process: Process, run: RunFolder, watchers: list[Progress], saved: Checkpoint | None
) -> Trainer:
    """Build the network with fresh, pretrained or saved weights, and the loop around it."""
    seed_everything(ready.config.seed)
    classifier = Classifier(ready.spec)
    if ready.config.pretrained and saved is None:
        if ready.config.weights:
            load_weights_file(classifier.network, ready.config.model, Path(ready.config.weights))
        else:
            load_pretrained(classifier.network, ready.config.model)
    environment = {**describe_environment(process.device).as_json(), "processes": process.world_size}
    recorder = Recorder(run, ready.config, ready.spec, ready.record, environment)
    trainer = Trainer(ready.config, classifier, ready.splits, process, recorder, watchers)
    if saved:
        trainer.restore(saved, best_metrics(run, saved))
    return trainer


def _interruption(trainer: Trainer, output: Path, model: str) -> str:
    done = len(trainer.history)
    if not done:
        return "interrupted in epoch 1; no epoch was complete, so nothing was written"
    return (
        f"interrupted in epoch {done + 1}; epochs 1-{done} are kept in {output}, the best is "
        f"{trainer.stopping.best_epoch}; continue with: xtrain {model} --resume {output}"
    )


def _report(run: RunFolder, ready: Prepared, outcome: Outcome) -> None:
    """Write the summary and the pictures."""
    counts = class_counts(np.asarray(ready.splits.train.labels), len(ready.spec.classes))
    summary = summarise(checkpoint.load(run / folder.BEST), counts, outcome)
    write_report(run, summary, outcome.history)
