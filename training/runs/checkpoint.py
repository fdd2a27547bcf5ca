"""The checkpoint: weights and what they were trained from, in one file that never needs unpickling.

Flows in: a trained network's weights and what is known of them. Flows out: `best.pt` and `last.pt`, read back with
`weights_only=True`, so that a checkpoint from a stranger cannot run code.
"""

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig
from training.models.classifier import Classifier, ModelSpec
from xtrain.errors import CheckpointError, XtrainError
from xtrain.files import open_atomic

FORMAT = 4


@dataclass(frozen=True)
class DataRecord:
    """Which data a run saw: enough to find the same rows again.

    `rows` counts each split; `split_digest` is the digest of the exact row numbers; `group_pattern` named the groups
    that were kept together.
    """

    name: str
    md5: str
    licence: str
    source: str
    protocol: str
    split_seed: int
    val_fraction: float
    split_digest: str
    rows: dict[str, int]
    group_pattern: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """One epoch's weights and everything known of them.

    `metrics` are those of the validation split at this epoch; `training` is what a resumed run needs (optimizer,
    scheduler, early stopping, history) and is empty in `best.pt`; `digest` is the SHA-256 of the weights;
    `training_rows` (N,) int64 are the digests of the training images, None in checkpoints from before they were kept.
    """

    config: TrainConfig
    spec: ModelSpec
    data: DataRecord
    epoch: int
    metrics: dict[str, Any]
    environment: dict[str, Any]
    weights: Mapping[str, torch.Tensor]
    training: dict[str, Any]
    digest: str
    training_rows: torch.Tensor | None = None

    def without_training_state(self) -> "Checkpoint":
        """Return what `best.pt` holds."""
        return replace(self, training={})

    def classifier(self) -> Classifier:
        """Build the network and load the weights, in evaluation mode on the CPU."""
        classifier = Classifier(self.spec)
        classifier.network.load_state_dict(self.weights)
        return classifier.eval()


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, shapes and bytes of all tensors in name order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OutputError: the file cannot be written; an older one at `path` is untouched.
    """
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an unnamed RuntimeError
    torch.save(
        {
            "format": FORMAT,
            "config": checkpoint.config.as_json(),
            "spec": checkpoint.spec.as_json(),
            "data": checkpoint.data.as_json(),
            "epoch": checkpoint.epoch,
            "metrics": checkpoint.metrics,
            "environment": checkpoint.environment,
            "weights": dict(checkpoint.weights),
            "training": checkpoint.training,
            "digest": checkpoint.digest,
            "training_rows": checkpoint.training_rows,
        },
        buffer,
    )
    with open_atomic(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Args:
        path: a `.pt` file, or a run folder, whose `best.pt` is meant.

    Raises:
        CheckpointError: missing, damaged, needing unpickling, or of another format version.
    """
    if path.is_dir():
        path = path / "best.pt"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; name a run folder that xtrain wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd pickles; they are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] not in (1, 2, 3, FORMAT):
            raise CheckpointError(
                f"{path}: checkpoint format {content['format']}, not {FORMAT}; use the version that wrote it"
            )
        if content["format"] == 1:
            content = _from_format_1(content)
        if content["format"] <= 2:
            content = _from_format_2(content)
        if content["format"] <= 3:
            content = _from_format_3(content)
        checkpoint = Checkpoint(
            config=TrainConfig.from_json(content["config"]),
            spec=ModelSpec.from_json(content["spec"]),
            data=DataRecord(**content["data"]),
            epoch=content["epoch"],
            metrics=content["metrics"],
            environment=content["environment"],
            weights=content["weights"],
            training=content["training"],
            digest=content["digest"],
            training_rows=content["training_rows"],
        )
    except XtrainError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors and plain values, and it will not be unpickled; name a run of xtrain"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint of xtrain ({type(error).__name__}); train again or name another run"
        ) from error
    if weights_digest(checkpoint.weights) != checkpoint.digest:
        raise CheckpointError(f"{path}: the weights do not match their digest; the file was changed, train again")
    return checkpoint


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the names of today: switches were called options, and `paper` had colour jitter."""
    config, spec = dict(content["config"]), dict(content["spec"])
    config["switches"], spec["switches"] = config.pop("options"), spec.pop("options")
    augment = "paper-intended" if config["augment"] == "paper" else config["augment"]
    return {**content, "config": {**config, "recipe": "paper", "augment": augment}, "spec": spec}


def _from_format_2(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the settings that came later at what they were: not there."""
    added = {"data_dir": None, "classes": None, "native_size": None, "group_pattern": None}
    return {**content, "config": {**content["config"], **added}, "training_rows": None}


def _from_format_3(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the settings that came later as they were in effect, and the state of today's loop."""
    added = {item.name: item.default for item in fields(TrainConfig) if item.name not in content["config"]}
    config, state = {**content["config"], **added}, dict(content["training"])
    if state:
        kind = "plateau" if config["scheduler"] == "plateau" else "planned"
        state["schedule"] = {"warming": 0, **({kind: state["schedule"]} if state["schedule"] else {})}
        stopping = dict(state["stopping"])
        stopping["best"] = stopping.pop("best_accuracy")
        state |= {"stopping": stopping, "scaler": {}}
    return {**content, "config": config, "training": state}
