"""Going on with a run: which configuration it had, what may change, and where its files stand."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.runs import checkpoint
from training.runs import folder as journal
from training.runs.checkpoint import Checkpoint, DataRecord
from training.config import TrainConfig, check
from xtrain.errors import CheckpointError, ConfigError
from xtrain.metrics import Metrics
from training.models.registry import find


def load_interrupted(run: Path, model: str) -> Checkpoint:
    """The `last.pt` of a run that can go on.

    Raises:
        CheckpointError: no such run, or another model's.
    """
    path = run / journal.LAST
    if not path.is_file():
        raise CheckpointError(f"{run}: holds no {journal.LAST} to go on from; name a run folder that xtrain wrote")
    saved = checkpoint.load(path)
    if saved.config.model != model:
        raise CheckpointError(
            f"{run}: holds a {saved.config.model}, not a {model}; "
            f"go on with: xtrain {saved.config.model} --resume {run}"
        )
    return saved


def continued(saved: Checkpoint, data: str | None, given: dict[str, Any]) -> TrainConfig:
    """The saved configuration with the few options that may change: where the data is, and how long to train.

    Raises:
        ConfigError: another option, or nothing left to do.
    """
    asked = {key: value for key, value in given.items() if value is not None}
    switches = asked.pop("options", {})
    kept = {**asdict(saved.config), **find(saved.config.model).options, **saved.config.options}
    for key, value in {**asked, **switches}.items():
        if key not in ("epochs", "patience") and kept.get(key) != value:
            raise ConfigError(
                f"--{key.replace('_', '-')} cannot change in a resumed run, which has {kept.get(key)}; leave it out"
            )
    changes = {key: value for key, value in asked.items() if key in ("epochs", "patience")}
    config = replace(saved.config, **changes, data=data or saved.config.data)
    check(config)
    if config.epochs != saved.config.epochs and config.scheduler in ("cosine", "onecycle"):
        raise ConfigError(
            f"the {config.scheduler} schedule was planned over {saved.config.epochs} epochs; leave --epochs out"
        )
    stale = saved.training["stopping"]["stale"]
    if saved.epoch >= config.epochs or stale >= config.patience:
        raise ConfigError(
            f"the run is complete after {saved.epoch} epochs; "
            + ("raise --patience to go on" if stale >= config.patience else "raise --epochs to go on")
        )
    return config


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


def best_metrics(folder: journal.RunFolder, saved: Checkpoint) -> Metrics:
    """Figures of the best epoch so far.

    Makes `best.pt` from `last.pt` where that is the best epoch and the process died before it wrote `best.pt`.
    """
    if saved.training["stopping"]["best_epoch"] == saved.epoch:
        path = folder / journal.BEST
        if not path.is_file() or checkpoint.load(path).digest != saved.digest:
            checkpoint.save(path, replace(saved, training={}))
        return Metrics.from_json(saved.metrics)
    return Metrics.from_json(checkpoint.load(folder / journal.BEST).metrics)
