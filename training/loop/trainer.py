"""The training loop: from two splits to the best epoch's weights.

Flows in: a configuration, a `Classifier`, two splits. Flows out, after every epoch, through the recorder: `last.pt`,
`metrics.jsonl` and, where validation accuracy rose, `best.pt`. One process or several compute the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainConfig
from training.loop.augment import augment, sample
from training.loop.average import MovingAverage
from training.loop.device import seed_everything
from training.loop.distributed import Process, all_reduce_min, all_reduce_sum, broadcast_buffers
from training.loop.estimate import batch_advice, memory_advice
from training.loop.loader import Batch, Loader, balanced, balanced_weights, shuffled
from training.loop.prediction import BATCH_ROWS, predict
from training.loop.schedule import EarlyStopping, Schedule
from training.models.classifier import Classifier
from training.optimizers import make_optimizer
from training.policies import POLICIES
from training.runs.checkpoint import Checkpoint
from training.runs.history import Outcome, epoch_record
from training.runs.progress import Progress
from training.runs.recorder import Recorder
from xtrain.data.datasets import Split
from xtrain.errors import TrainingError
from xtrain.metrics import Metrics, evaluate


@dataclass(frozen=True)
class Splits:
    """The labelled rows that are trained on and validated on."""

    train: Split
    val: Split


class Trainer:
    """Holds the moving parts of one run."""

    def __init__(
        self,
        config: TrainConfig,
        classifier: Classifier,
        splits: Splits,
        process: Process,
        recorder: Recorder | None = None,
        watchers: Sequence[Progress] = (),
    ) -> None:
        """Move everything to the process's device.

        Args:
            config: what to compute.
            classifier: with fresh or pretrained weights; trained in place.
            splits: labelled rows.
            process: this one among those that train together.
            recorder: writes every epoch; None to keep nothing.
            watchers: told of every batch and epoch on the main process.
        """
        assert splits.train.labels is not None and splits.val.labels is not None
        self.config, self.process, self.recorder, self.watchers = config, process, recorder, watchers
        self.classifier = classifier.to(process.device).to(memory_format=torch.channels_last)
        with memory_advice("for the images of the two splits; --stream reads them from disk as they are needed"):
            self.train_loader = Loader(splits.train, config.batch_size, process)
            self.val_loader = Loader(splits.val, config.batch_size, process)
        self.val_labels = splits.val.labels
        self.weights = balanced_weights(splits.train.labels, classifier.spec.classes) if config.balance else None
        self.policy = POLICIES[config.augment or "none"]
        self.network = _prepared_network(classifier, config.compile, process)
        self.average = MovingAverage(classifier, config.ema) if config.ema else None
        self.optimizer = make_optimizer(config.optimizer, config.lr, classifier.network.parameters())
        self.schedule = Schedule(config, self.optimizer, self.train_loader.steps)
        self.stopping = EarlyStopping(config.patience)
        self.history: list[dict[str, Any]] = []
        self.best: Metrics | None = None

    @property
    def validated(self) -> Classifier:
        """The classifier that is validated and written: with averaged weights where there are any."""
        return self.average.classifier if self.average else self.classifier

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def restore(self, saved: Checkpoint, best: Metrics) -> None:
        """Continue after the epoch that `saved`, a `last.pt`, was written in; `best` are the best epoch's metrics."""
        state = saved.training
        self.classifier.network.load_state_dict(state["weights"] if self.average else saved.weights)
        if self.average:
            self.average.restore(dict(saved.weights), state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.stopping = EarlyStopping(**{**state["stopping"], "patience": self.config.patience})
        self.history = list(state["history"])
        self.best = best

    def fit(self) -> Outcome:
        """Train until the epochs are used up or validation accuracy stops rising.

        Raises:
            TrainingError: the loss is no longer finite.
        """
        for watcher in self.watchers:
            watcher.start(self.config.epochs, self.train_loader.steps, len(self.history))
        try:
            while len(self.history) < self.config.epochs and not self.stopping.exhausted:
                self._epoch(len(self.history) + 1)
        finally:
            for watcher in self.watchers:
                watcher.close()
            self.network = self.classifier.network  # lets go of DistributedDataParallel and its process group
        assert self.best is not None
        seconds = sum(entry["train_seconds"] for entry in self.history)
        return Outcome(
            best_epoch=self.stopping.best_epoch,
            best=self.best,
            history=self.history,
            stopped_early=self.stopping.exhausted and len(self.history) < self.config.epochs,
            seconds=sum(entry["seconds"] for entry in self.history),
            train_seconds=seconds,
            images_per_second=self.train_loader.rows_an_epoch * len(self.history) / seconds,
        )

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train over as many rows as the training split has; return the mean cross-entropy and the accuracy over them.

        Both are of the augmented images, with dropout, while the weights change; so below what validation would give.

        Raises:
            TrainingError: a loss that is not finite, with the batch and the learning rate it happened at.
        """
        generator = seed_everything(self.config.seed, epoch, self.process.rank)
        order = (
            shuffled(len(self.train_loader), generator) if self.weights is None else balanced(self.weights, generator)
        )
        self.classifier.train()
        # Both are read once an epoch: an .item() in the loop would wait for the device at every batch.
        total = torch.zeros(2, device=self.process.device)  # summed loss, rows that were right
        finite_batches = torch.zeros((), device=self.process.device, dtype=torch.long)
        rates = []
        size, advice = self.classifier.preprocess.output_size, batch_advice(self.config)
        with memory_advice(f"with batches of {self.config.batch_size} at {size} pixels; {advice}"):
            for batch in self.train_loader.training_batches(order):
                rates.append(self.learning_rate)
                total += self.step(batch, generator)
                finite_batches += total[0].isfinite()  # a sum that is not finite stays so: counts the batches before
                for watcher in self.watchers:
                    watcher.step()
        loss, right = all_reduce_sum(total, self.process).tolist()
        if not np.isfinite(loss):
            self._diverged(epoch, int(all_reduce_min(finite_batches, self.process)), rates)
        broadcast_buffers(self.classifier.network, self.process)
        if self.average:  # its BatchNorm statistics are an average of each process's own
            broadcast_buffers(self.average.classifier.network, self.process)
        return loss / self.train_loader.rows_an_epoch, right / self.train_loader.rows_an_epoch

    def step(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Update the weights once; return (2,): the summed cross-entropy of this process's rows, how many are right."""
        preprocess = self.classifier.preprocess
        with torch.no_grad():
            pixels = preprocess.resize(batch.images)
            if self.policy:
                sampled = sample(self.policy, batch.global_rows, generator)
                pixels = augment(pixels, sampled.shard(self.process.rank, self.process.world_size))
            pixels = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = self.network(pixels)
        smoothing = self.config.label_smoothing
        summed = F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages over processes; this makes the gradient that of the mean over the global batch.
        (summed * (self.process.world_size / batch.global_rows)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.after_batch()
        if self.average:
            self.average.update(self.classifier.network)
        with torch.no_grad():
            return torch.stack((summed, (logits.argmax(dim=1) == batch.labels).sum().to(summed.dtype)))

    def _diverged(self, epoch: int, finite_batches: int, rates: Sequence[float]) -> None:
        raise TrainingError(
            f"the loss is not finite any more in epoch {epoch}, batch {finite_batches + 1} of {len(rates)}, at "
            f"learning rate {rates[finite_batches]:.3g}; {self._kept(epoch)}; try a lower --lr"
        )

    def _kept(self, epoch: int) -> str:
        """Return what an error in an epoch leaves of the run."""
        where = f" in {self.recorder.folder.path}" if self.recorder else ""
        return f"epochs 1-{epoch - 1} are kept{where}" if epoch > 1 else "nothing was written"

    def _epoch(self, epoch: int) -> None:
        """Train, validate, decide, write."""
        began, lr = time.perf_counter(), self.learning_rate
        train_loss, train_accuracy = self.train_epoch(epoch)
        trained = time.perf_counter() - began
        rows, size = BATCH_ROWS[self.process.device.type], self.classifier.preprocess.output_size
        with memory_advice(f"while validating {rows} images at {size} pixels at a time; try a smaller --image-size"):
            probabilities = predict(self.validated, self.val_loader)
        if not np.isfinite(probabilities).all():
            raise TrainingError(
                f"the network's probabilities are not finite in epoch {epoch}; {self._kept(epoch)}; try a lower --lr"
            )
        metrics = evaluate(self.val_labels, probabilities)
        self.schedule.after_epoch(metrics.loss)
        is_best = self.stopping.update(epoch, metrics.accuracy, metrics.loss)
        if is_best:
            self.best = metrics
        seconds = (trained, time.perf_counter() - began)
        trained_to = (train_loss, train_accuracy)
        entry = epoch_record(epoch, lr, trained_to, metrics, self.train_loader.rows_an_epoch, seconds)
        history = [*self.history, entry]
        if self.recorder and self.process.is_main:
            self.recorder.write(_on_cpu(self.validated.network), metrics, self._state(history), is_best)
        self.history = history  # what an interruption says is kept
        for watcher in self.watchers:
            watcher.epoch(entry, metrics, is_best)

    def _state(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what a resumed run needs besides the weights that are validated."""
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stopping": asdict(self.stopping),
            "history": history,
        }
        if self.average:
            state |= {"weights": _on_cpu(self.classifier.network), "averaged": self.average.steps}
        return state


def _prepared_network(
    classifier: Classifier, compiled: bool, process: Process
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network as the step calls it: synchronised, compiled and distributed as asked."""
    if process.world_size > 1 and process.device.type == "cuda":
        # BatchNorm over the global batch, as in one process; Gloo on the CPU has no such layer.
        classifier.network = nn.SyncBatchNorm.convert_sync_batchnorm(classifier.network)  # type: ignore[no-untyped-call]
    network: Callable[[torch.Tensor], torch.Tensor] = classifier.network
    if compiled:
        network = torch.compile(classifier.network)
    if process.world_size > 1:
        module = network if isinstance(network, nn.Module) else classifier.network
        device_ids = [process.device] if process.device.type == "cuda" else None
        network = DistributedDataParallel(module, device_ids=device_ids)
    return network


def _on_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
