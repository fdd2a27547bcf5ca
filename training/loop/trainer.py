"""The training loop: from two splits to the best epoch's weights.

Flows in: a configuration, a `Classifier`, two splits. Flows out, after every epoch: `last.pt`, `metrics.jsonl`
and, where validation accuracy rose, `best.pt`. One process or several compute the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.runs import checkpoint
from training.runs import folder as journal
from training.loop.augment import POLICIES, augment, draw
from training.runs.checkpoint import Checkpoint, DataRecord
from training.config import TrainConfig
from xtrain.data.datasets import Split
from training.loop.distributed import Team, gather_rows, least_over, share_buffers, sum_over
from xtrain.errors import TrainingError
from training.loop.loader import Loader, balanced, balanced_weights, shuffled
from xtrain.metrics import Metrics, evaluate
from training.models.classifier import Classifier
from training.runs.progress import Progress
from training.loop.schedule import EarlyStopping, Schedule, make_optimizer
from training.loop.device import seed_everything

# Rows of one validation batch: on the CPU what fits the caches, on a GPU what fills it.
EVALUATION_BATCH = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Outcome:
    """What a finished run can tell: the best epoch, its validation figures, the history, and the speed.

    `seconds` are the wall time of all epochs, also those before a resumption; `train_seconds` is it without
    validation.
    """

    best_epoch: int
    best: Metrics
    history: list[dict[str, Any]]
    stopped_early: bool
    seconds: float
    train_seconds: float
    images_per_second: float


@torch.inference_mode()
def predict(classifier: Classifier, loader: Loader) -> NDArray[np.float32]:
    """Probabilities (N, classes) float32 of every row in order, computed by all processes together.

    In float32 whatever the training precision is, so that the figures are those of the weights as exported.
    """
    classifier.eval()
    batches = loader.in_order(EVALUATION_BATCH[loader.device.type])
    parts = [classifier(batch.images).softmax(dim=1) for batch in batches]
    probabilities: NDArray[np.float32] = gather_rows(torch.cat(parts), len(loader), loader.team).cpu().numpy()
    return probabilities


@contextmanager
def memory_advice(config: TrainConfig, size: int) -> Iterator[None]:
    """Turn running out of memory, on a GPU or the host, into advice.

    Raises:
        TrainingError: with half the batch size.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in ("out of memory", "allocate")):
            raise
        raise TrainingError(
            f"out of memory with batches of {config.batch_size} at {size} pixels; "
            f"try --batch-size {max(2, config.batch_size // 2)}"
        ) from error


class Trainer:
    """Holds the moving parts of one run."""

    def __init__(
        self,
        config: TrainConfig,
        classifier: Classifier,
        train: Split,
        val: Split,
        data: DataRecord,
        environment: dict[str, Any],
        device: torch.device,
        folder: journal.RunFolder,
        watchers: Sequence[Progress] = (),
        team: Team | None = None,
    ) -> None:
        """Move everything to the device; `watchers` are told of every batch and epoch on the leading process."""
        assert train.labels is not None and val.labels is not None
        self.config, self.data, self.environment = config, data, environment
        self.device, self.folder, self.watchers = device, folder, watchers
        self.team = team or Team()
        self.classifier = classifier.to(device).to(memory_format=torch.channels_last)
        self.train_loader = Loader(train, config.batch_size, device, self.team)
        self.val_loader = Loader(val, config.batch_size, device, self.team)
        self.val_labels = val.labels
        self.weights = balanced_weights(train.labels, classifier.spec.classes) if config.balance else None
        self.policy = POLICIES[config.augment or "none"]
        if self.team.world > 1 and device.type == "cuda":
            # BatchNorm over the global batch, as in one process; Gloo on the CPU has no such layer.
            classifier.network = nn.SyncBatchNorm.convert_sync_batchnorm(classifier.network)  # type: ignore[no-untyped-call]
        self.network: Callable[[torch.Tensor], torch.Tensor] = classifier.network
        if config.compile:
            self.network = torch.compile(classifier.network)
        if self.team.world > 1:
            module = self.network if isinstance(self.network, nn.Module) else classifier.network
            self.network = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
        self.average = (
            AveragedModel(classifier.network, multi_avg_fn=_moving_average(config.ema), use_buffers=True)
            if config.ema
            else None
        )
        self.optimizer = make_optimizer(config, classifier.network.parameters())
        self.schedule = Schedule(config, self.optimizer, self.train_loader.steps)
        self.stopping = EarlyStopping(config.patience)
        self.history: list[dict[str, Any]] = []
        self.best: Metrics | None = None

    def restore(self, saved: Checkpoint, best: Metrics) -> None:
        """Go on after the epoch that `saved`, a `last.pt`, was written in; `best` are the best epoch's figures."""
        state = saved.training
        self.classifier.network.load_state_dict(state["weights"] if self.average else saved.weights)
        if self.average:
            self.average.module.load_state_dict(saved.weights)
            self.average.n_averaged.fill_(state["averaged"])
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

    def train_epoch(self, epoch: int) -> float:
        """One pass over as many rows as the training split has; the mean cross-entropy over them.

        Raises:
            TrainingError: a loss that is not finite, with the batch and the learning rate it happened at.
        """
        generator = seed_everything(self.config.seed, epoch, self.team.rank)
        order = (
            shuffled(len(self.train_loader), generator) if self.weights is None else balanced(self.weights, generator)
        )
        preprocess = self.classifier.preprocess
        self.classifier.train()
        # Both are read once an epoch: an .item() in the loop would wait for the device at every batch.
        total = torch.zeros((), device=self.device)
        finite = torch.zeros((), device=self.device, dtype=torch.long)
        rates = []
        for batch in self.train_loader.draw(order):
            with torch.no_grad():
                pixels = preprocess.resize(batch.images)
                if self.policy:
                    drawn = draw(self.policy, batch.total, generator)
                    pixels = augment(pixels, drawn.share(self.team.rank, self.team.world))
                pixels = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                logits = self.network(pixels)
            smoothing = self.config.label_smoothing
            summed = F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            # DDP averages over processes; this makes the gradient that of the mean over the global batch.
            (summed * (self.team.world / batch.total)).backward()  # type: ignore[no-untyped-call]
            rates.append(float(self.optimizer.param_groups[0]["lr"]))
            self.optimizer.step()
            self.schedule.after_batch()
            if self.average:
                self.average.update_parameters(self.classifier.network)
            total += summed.detach()
            finite += total.isfinite()  # once the sum is not finite it stays so: this counts the batches before
            for watcher in self.watchers:
                watcher.step()
        loss = float(sum_over(total, self.team))
        if not np.isfinite(loss):
            reached = int(least_over(finite, self.team))
            kept = f"epochs 1-{epoch - 1} are kept in {self.folder.path}" if epoch > 1 else "nothing was written"
            raise TrainingError(
                f"the loss is not finite any more in epoch {epoch}, batch {reached + 1} of {len(rates)}, at learning "
                f"rate {rates[reached]:.3g}; {kept}; try a lower --lr"
            )
        share_buffers(self.classifier.network, self.team)
        return loss / self.train_loader.rows_an_epoch

    def _epoch(self, epoch: int) -> None:
        """Train, validate, decide, write."""
        began = time.perf_counter()
        lr = float(self.optimizer.param_groups[0]["lr"])
        train_loss = self.train_epoch(epoch)
        trained = time.perf_counter() - began
        metrics = evaluate(self.val_labels, predict(self._kept(), self.val_loader))
        self.schedule.after_epoch(metrics.loss)
        better = self.stopping.update(epoch, metrics.accuracy, metrics.loss)
        if better:
            self.best = metrics
        entry = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": train_loss,
            "val_loss": metrics.loss,
            "val_accuracy": metrics.accuracy,
            "val_f1": metrics.f1,
            "val_auc": metrics.auc,
            "train_seconds": round(trained, 3),
            "seconds": round(time.perf_counter() - began, 3),
            "images_per_second": round(self.train_loader.rows_an_epoch / trained, 1),
        }
        self.history.append(entry)
        if self.team.leads:
            self._save(epoch, metrics, better)
        for watcher in self.watchers:
            watcher.epoch(entry, metrics, better)

    def _kept(self) -> Classifier:
        """The classifier that is validated and written: with averaged weights where there are any."""
        if not self.average:
            return self.classifier
        averaged = Classifier.__new__(Classifier)
        nn.Module.__init__(averaged)
        averaged.spec = self.classifier.spec
        averaged.preprocess, averaged.network = self.classifier.preprocess, self.average.module
        return averaged

    def _save(self, epoch: int, metrics: Metrics, better: bool) -> None:
        """Write this epoch; `last.pt` first: `best.pt` can be made from it should the process die in between."""
        weights = _on_cpu(self._kept().network)
        going_on: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stopping": asdict(self.stopping),
            "history": self.history,
        }
        if self.average:
            going_on |= {"weights": _on_cpu(self.classifier.network), "averaged": int(self.average.n_averaged)}
        facts: dict[str, Any] = {
            "config": self.config,
            "spec": self.classifier.spec,
            "data": self.data,
            "epoch": epoch,
            "metrics": metrics.as_json(),
            "environment": self.environment,
            "weights": weights,
            "digest": checkpoint.weights_digest(weights),
        }
        self.folder.open(self.config.as_json())
        checkpoint.save(self.folder / journal.LAST, Checkpoint(**facts, training=going_on))
        if better:
            checkpoint.save(self.folder / journal.BEST, Checkpoint(**facts, training={}))
        self.folder.record(self.history)


def _moving_average(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


def _on_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
