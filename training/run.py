"""One training run from end to end: options to data to network to loop to report."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from xtrain.data import catalog
from training.runs import checkpoint
from training.runs import folder as journal
from training.runs.checkpoint import Checkpoint, DataRecord, record_data
from training.config import TrainConfig, resolve
from xtrain.data.datasets import Dataset, Split
from training.loop.distributed import check_batch, joined
from training.runs.environment import (
    choose_device,
    choose_precision,
    describe_environment,
    keep_freed_memory,
    make_deterministic,
)
from xtrain.errors import ConfigError, DataError, XtrainError
from training.loop.estimate import estimate
from training.loop.loader import class_counts
from training.models.pretrained import load_pretrained, load_weights_file
from training.models.classifier import Classifier, ModelSpec, describe
from training.runs.progress import Progress, choose_progress
from training.runs.report import summarise, write_report
from training.runs.resume import best_metrics, check_same_data, continued, load_interrupted
from training.loop.device import seed_everything
from xtrain.data.splits import gather, partition
from training.loop.trainer import Outcome, Trainer, memory_advice


class Interrupted(XtrainError):
    """The user stopped training; what was complete is kept."""


@dataclass(frozen=True)
class Prepared:
    """A configuration with everything settled, and the data it works on."""

    config: TrainConfig
    dataset: Dataset
    train: Split
    val: Split
    record: DataRecord
    spec: ModelSpec


def prepare(config: TrainConfig, data_dir: str | None, stream: bool | None) -> Prepared:
    """Load and divide the data, and settle what the configuration leaves to it.

    Raises:
        XtrainError: of the fitting kind, before anything is written.
    """
    dataset = catalog.load(config.data, data_dir, stream=stream)
    if config.augment is None:
        config = replace(config, augment="none" if dataset.upright else "paper")
    divided = partition(dataset, config.protocol, split_seed=config.split_seed, val_fraction=config.val_fraction)
    train, val = gather(dataset, divided, "train"), gather(dataset, divided, "val")
    if train.labels is None or val.labels is None:
        raise DataError(f"{dataset.name}: training and validation rows need labels")
    if len(train) < 2:
        raise DataError(f"{dataset.name}: one training row is too few; batches need at least 2")
    return Prepared(
        config, dataset, train, val, record_data(config, dataset, divided), describe(config, dataset, train)
    )


def dry_run(
    model: str, data: str, data_dir: str | None, device_name: str, stream: bool | None, **given: Any
) -> dict[str, Any]:
    """What a run would do: the resolved configuration, parameters, an estimate of the memory it takes."""
    device = choose_device(device_name)
    config = resolve(model, data, **given)
    ready = prepare(replace(config, precision=choose_precision(config.precision, device)), data_dir, stream)
    image_bytes = ready.train.images.nbytes + ready.val.images.nbytes
    figures = estimate(ready.config, ready.spec, image_bytes)
    return {
        "config": ready.config.as_json(),
        "model": ready.spec.as_json(),
        "data": ready.record.as_json(),
        "device": str(device),
        "memory_bytes": {**asdict(figures), "total": figures.total},
    }


def train_run(
    model: str,
    data: str | None,
    *,
    data_dir: str | None,
    output: Path | None,
    device_name: str,
    overwrite: bool,
    terminal: TextIO,
    resume: Path | None = None,
    stream: bool | None = None,
    tensorboard: bool = False,
    **given: Any,
) -> str:
    """Train and report; returns the lines for stdout, empty on processes that do not lead.

    Args:
        model: a key of the registry.
        data: name or path of a data set; None is PathMNIST, or what the resumed run was trained on.
        data_dir: where named sets lie.
        output: the run folder; None names it after model, data and seed.
        device_name: `auto`, `cpu` or `cuda`.
        overwrite: whether an earlier run there may be replaced.
        terminal: where progress goes.
        resume: a run folder to go on with.
        stream: read images from disk as needed; None decides by the memory available.
        tensorboard: also write TensorBoard events.
        given: fields of `TrainConfig` that the user set; None means the recipe's.

    Raises:
        XtrainError: any fault of the input, before anything is written; or an interruption.
    """
    saved: Checkpoint | None = None
    if resume is not None:
        if output is not None or overwrite:
            raise ConfigError("--resume writes where it reads; leave -o and --overwrite out")
        saved = load_interrupted(resume, model)
        config = continued(saved, data, given)
        output = resume
    else:
        config = resolve(model, data or catalog.DEFAULT, **given)
        stem = Path(config.data).stem if config.data.endswith(".npz") else config.data
        output = output or Path("runs") / f"{model}-{stem}-seed{config.seed}"
    folder = journal.RunFolder(output, overwrite, resume=resume is not None)
    if config.deterministic:
        make_deterministic()
    device = choose_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    with joined(device) as team:
        check_batch(config.batch_size, team.world)
        ready = prepare(replace(config, precision=choose_precision(config.precision, device)), data_dir, stream)
        if saved:
            check_same_data(saved, ready.record, output)
        environment = {**describe_environment(device).as_json(), "processes": team.world}
        watchers: list[Progress] = []
        if team.leads:
            watchers.append(choose_progress(terminal))
            if tensorboard:
                from training.runs.tensorboard import TensorBoard

                watchers.append(TensorBoard(folder / journal.TENSORBOARD, ready.dataset.classes))
        with memory_advice(ready.config, ready.spec.crop or ready.spec.image_size):
            seed_everything(ready.config.seed)
            classifier = Classifier(ready.spec)
            if ready.config.pretrained and saved is None:
                if ready.config.weights:
                    load_weights_file(classifier.network, model, Path(ready.config.weights))
                else:
                    load_pretrained(classifier.network, model)
            trainer = Trainer(
                ready.config,
                classifier,
                ready.train,
                ready.val,
                ready.record,
                environment,
                device,
                folder,
                watchers,
                team,
            )
            if saved:
                trainer.restore(saved, best_metrics(folder, saved))
            try:
                outcome = trainer.fit()
            except KeyboardInterrupt:
                raise Interrupted(_interruption(trainer, output, model)) from None
        return _report(folder, ready, outcome, environment) if team.leads else ""


def _interruption(trainer: Trainer, output: Path, model: str) -> str:
    done = len(trainer.history)
    if not done:
        return "interrupted in epoch 1; no epoch was complete, so nothing was written"
    return (
        f"interrupted in epoch {done + 1}; epochs 1-{done} are kept in {output}, the best is "
        f"{trainer.stopping.best_epoch}; go on with: xtrain {model} --resume {output}"
    )


def _report(folder: journal.RunFolder, ready: Prepared, outcome: Outcome, environment: dict[str, Any]) -> str:
    """Write the summary and the pictures; the lines for stdout."""
    classes = ready.dataset.classes
    counts = class_counts(np.asarray(ready.train.labels), len(classes))
    digest = checkpoint.load(folder / journal.BEST).digest
    summary = summarise(ready.config, ready.record, classes, counts, outcome, environment, digest)
    write_report(folder, summary, outcome.history)
    low, high = outcome.best.accuracy_interval
    auc = "-" if outcome.best.auc is None else f"{outcome.best.auc:.4f}"
    return (
        f"{ready.config.model} on {ready.record.name} ({ready.record.protocol} protocol), best epoch "
        f"{outcome.best_epoch} of {len(outcome.history)}: validation accuracy {outcome.best.accuracy:.4f} "
        f"(95 % interval {low:.4f} to {high:.4f}), macro F1 {outcome.best.f1:.4f}, AUC {auc}\n{folder.path}"
    )
