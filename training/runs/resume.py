"""Resuming a run: the configuration it had, what may change, and the state of its files."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

from training.config import TrainConfig, check_config
from training.models.registry import find
from training.optimizers import SCHEDULERS
from training.runs import checkpoint, folder
from training.runs.checkpoint import Checkpoint, DataRecord
from training.runs.folder import RunFolder
from xtrain.errors import CheckpointError, ConfigError
from xtrain.metrics import Metrics
from xtrain.options import described


class CompleteError(ConfigError):
    """Nothing of the run is left to do."""


def load_interrupted(run: Path, model: str) -> Checkpoint:
    """Return the `last.pt` of a run that can be resumed.

    Raises:
        CheckpointError: no such run, or another model's.
    """
    path = run / folder.LAST
    if not path.is_file():
        raise CheckpointError(f"{run}: holds no {folder.LAST} to resume from; name a run folder that xtrain wrote")
    saved = checkpoint.load(path)
    if saved.config.model != model:
        raise CheckpointError(
            f"{run}: holds a {saved.config.model}, not a {model}; "
            f"resume it with: xtrain {saved.config.model} --resume {quote(str(run))}"
        )
    return saved


def resumed_config(
    saved: Checkpoint, data: str | None, settings: Mapping[str, Any], *, reported: bool
) -> tuple[TrainConfig, Checkpoint]:
    """Return the saved configuration with what may change, and the checkpoint to go on from.

    A run that stopped early goes on where more epochs are asked for: its patience then begins anew. A run that is
    complete without its report is returned as it is, so that the report can be written.

    Args:
        saved: the `last.pt` of the run.
        data: name or path of the data set, None where it was.
        settings: fields of `TrainConfig` that the user chose; only those marked for it may differ.
        reported: whether the run's summary is written.

    Raises:
        ConfigError: another setting would change.
        CompleteError: nothing is left to do.
    """
    settings = dict(settings)
    options = described(TrainConfig)
    changes = {name: settings.pop(name) for name in list(settings) if name in options and options[name][1].resume}
    switches = settings.pop("switches", {})
    stored = {**asdict(saved.config), **find(saved.config.model).defaults, **saved.config.switches}
    for name, value in {**settings, **switches}.items():
        if stored.get(name) != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} cannot change in a resumed run, which has {stored.get(name)}; leave it out"
            )
    config = replace(saved.config, **changes, data=saved.config.data if data is None else data)
    check_config(config)
    if config.epochs != saved.config.epochs and SCHEDULERS[config.scheduler].planned:
        raise ConfigError(
            f"the {config.scheduler} schedule was planned over {saved.config.epochs} epochs; leave --epochs out"
        )
    stopping = saved.training["stopping"]
    stopped_early = stopping["stale"] >= config.patience
    if stopped_early and "epochs" in changes and config.epochs > saved.epoch:
        return config, replace(saved, training={**saved.training, "stopping": {**stopping, "stale": 0}})
    if reported and (saved.epoch >= config.epochs or stopped_early):
        raise CompleteError(
            f"the run is complete after {saved.epoch} epochs"
            + (" without a higher validation accuracy for long; raise --epochs or --patience" if stopped_early else "")
            + ("" if stopped_early else "; raise --epochs to train on")
        )
    return config, saved


def check_same_data(saved: Checkpoint, record: DataRecord, run: Path) -> None:
    """Refuse other data, or the same data divided otherwise.

    Raises:
        CheckpointError: with both digests.
    """
    if (saved.data.md5, saved.data.split_digest) != (record.md5, record.split_digest):
        raise CheckpointError(
            f"{run}: was trained on {saved.data.name} with md5 {saved.data.md5} and split {saved.data.split_digest}, "
            f"not {record.md5} and {record.split_digest}; name that file with --data"
        )


def best_metrics(run: RunFolder, saved: Checkpoint) -> Metrics:
    """Return the metrics of the best epoch so far.

    Makes `best.pt` from `last.pt` where that is the best epoch and the process died before it wrote `best.pt`.
    """
    path = run / folder.BEST
    if saved.training["stopping"]["best_epoch"] == saved.epoch:
        if not path.is_file() or checkpoint.load(path).digest != saved.digest:
            checkpoint.save(path, saved.without_training_state())
        return Metrics.from_json(saved.metrics)
    return Metrics.from_json(checkpoint.load(path).metrics)
