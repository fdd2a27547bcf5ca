"""One training run from end to end: options to data to network to loop to report."""

from pathlib import Path
from typing import Any, TextIO

import numpy as np

from training import catalog, checkpoint, journal
from training.checkpoint import record_data
from training.config import resolve
from training.environment import choose_device, describe_environment
from training.errors import DataError, XtrainError
from training.loader import class_counts
from training.models.pretrained import load_pretrained
from training.pipeline import Classifier, describe
from training.progress import choose_progress
from training.report import summarise, write_report
from training.seeding import seed_everything
from training.splits import gather, partition
from training.trainer import Trainer


class Interrupted(XtrainError):
    """The user stopped training; what was complete is kept."""


def train_run(
    model: str,
    data: str,
    *,
    data_dir: str | None,
    output: Path,
    device_name: str,
    overwrite: bool,
    stream: TextIO,
    **given: Any,
) -> str:
    """Train and report; returns the lines for stdout.

    Args:
        model: a key of the registry.
        data: name or path of a data set.
        data_dir: where named sets lie.
        output: the run folder.
        device_name: `auto`, `cpu` or `cuda`.
        overwrite: whether an earlier run there may be replaced.
        stream: where progress goes.
        given: fields of `TrainConfig` that the user set; None means the recipe's.

    Raises:
        XtrainError: any fault of the input, before anything is written; or an interruption.
    """
    config = resolve(model, data, **given)
    folder = journal.RunFolder(output, overwrite)
    device = choose_device(device_name)
    dataset = catalog.load(data, data_dir)
    if config.augment is None:
        config = resolve(model, data, **{**given, "augment": "none" if dataset.upright else "paper"})
    divided = partition(dataset, config.protocol, split_seed=config.split_seed, val_fraction=config.val_fraction)
    train, val = gather(dataset, divided, "train"), gather(dataset, divided, "val")
    if train.labels is None or val.labels is None:
        raise DataError(f"{dataset.name}: training and validation rows need labels")
    if len(train) < 2:
        raise DataError(f"{dataset.name}: one training row is too few; batches need at least 2")
    record = record_data(config, dataset, divided)
    environment = describe_environment(device).as_json()

    seed_everything(config.seed)
    classifier = Classifier(describe(config, dataset, train))
    if config.pretrained:
        load_pretrained(classifier.network, config.model)
    trainer = Trainer(config, classifier, train, val, record, environment, device, folder, choose_progress(stream))
    try:
        outcome = trainer.fit()
    except KeyboardInterrupt:
        done = len(trainer.history)
        raise Interrupted(
            f"interrupted in epoch {done + 1}; "
            + (
                f"epochs 1-{done} are kept in {output}, the best is {trainer.stopping.best_epoch}"
                if done
                else "no epoch was complete, so nothing was written"
            )
        ) from None
    counts = class_counts(np.asarray(train.labels), len(dataset.classes))
    digest = checkpoint.load(folder / journal.BEST).digest
    summary = summarise(config, record, dataset.classes, counts, outcome, environment, digest)
    write_report(folder, summary, outcome.history)
    low, high = outcome.best.accuracy_interval
    auc = "-" if outcome.best.auc is None else f"{outcome.best.auc:.4f}"
    return (
        f"{config.model} on {record.name} ({record.protocol} protocol), best epoch {outcome.best_epoch} "
        f"of {len(outcome.history)}: validation accuracy {outcome.best.accuracy:.4f} "
        f"(95 % interval {low:.4f} to {high:.4f}), macro F1 {outcome.best.f1:.4f}, AUC {auc}\n{output}"
    )
