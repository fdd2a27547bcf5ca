"""Writes what an epoch leaves in the run folder: both checkpoints and the history."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from training.config import TrainConfig
from training.models.classifier import ModelSpec
from training.runs import checkpoint, folder
from training.runs.checkpoint import Checkpoint, DataRecord
from training.runs.folder import RunFolder
from xtrain.metrics import Metrics


@dataclass(frozen=True)
class Recorder:
    """Writes the epochs of one run.

    `data`, `environment` and the digests of the `training_rows` (N,) int64 are stored beside the weights.
    """

    folder: RunFolder
    config: TrainConfig
    spec: ModelSpec
    data: DataRecord
    environment: Mapping[str, Any]
    training_rows: torch.Tensor

    def write(
        self, weights: Mapping[str, torch.Tensor], metrics: Metrics, state: Mapping[str, Any], is_best: bool
    ) -> None:
        """Write one epoch; `last.pt` first: `best.pt` can be made from it should the process die in between.

        Args:
            weights: of the network that was validated, on the CPU.
            metrics: of the validation split.
            state: what a resumed run needs besides; its `history` ends with this epoch.
            is_best: whether this is the best epoch so far.

        Raises:
            OutputError: a file cannot be written; those of the epoch before are untouched.
        """
        saved = Checkpoint(
            config=self.config,
            spec=self.spec,
            data=self.data,
            epoch=len(state["history"]),
            metrics=metrics.as_json(),
            environment=dict(self.environment),
            weights=weights,
            training=dict(state),
            training_rows=self.training_rows,
            digest=checkpoint.weights_digest(weights),
        )
        with self.folder.epoch(self.config.as_json()) as target:
            checkpoint.save(target / folder.LAST, saved)
            if is_best:
                checkpoint.save(target / folder.BEST, saved.without_training_state())
            folder.write_history(target, state["history"])
