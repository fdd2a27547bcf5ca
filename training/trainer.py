"""The training loop: from two splits to the best epoch's weights.

Flows in: a configuration, a `Classifier`, loaders. Flows out, after every epoch: `last.pt`, `metrics.jsonl`
and, where validation accuracy rose, `best.pt`.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from training import checkpoint, journal
from training.augment import choose
from training.checkpoint import Checkpoint, DataRecord
from training.config import TrainConfig
from training.datasets import Split
from training.loader import Loader, balanced, balanced_weights, shuffled
from training.metrics import Metrics, evaluate
from training.pipeline import Classifier
from training.progress import Progress
from training.schedule import EarlyStopping, make_optimizer, make_scheduler
from training.seeding import seed_everything

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """What a finished run can tell: the best epoch, its validation figures, the history, and the speed."""

    best_epoch: int
    best: Metrics
    history: list[dict[str, Any]]
    stopped_early: bool
    train_seconds: float
    images_per_second: float


@torch.inference_mode()
def predict(classifier: Classifier, loader: Loader) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probabilities (N, classes) float32 of every row in order."""
    classifier.eval()
    parts = [classifier(images).float().softmax(dim=1) for images, _ in loader.in_order(_evaluation_batch(loader))]
    probabilities: np.ndarray[Any, np.dtype[np.float32]] = torch.cat(parts).cpu().numpy()
    return probabilities


def _evaluation_batch(loader: Loader) -> int:
    return max(loader.batch_size, EVALUATION_BATCH) if loader.images.device.type == "cuda" else 64


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
        progress: Progress,
    ) -> None:
        assert train.labels is not None and val.labels is not None
        self.config, self.data, self.environment = config, data, environment
        self.device, self.folder, self.progress = device, folder, progress
        self.classifier = classifier.to(device).to(memory_format=torch.channels_last)
        self.train_loader = Loader(train, config.batch_size, device)
        self.val_loader = Loader(val, config.batch_size, device)
        self.val_labels = val.labels
        self.weights = balanced_weights(train.labels, classifier.spec.classes) if config.balance else None
        self.augment = choose(config.augment or "none")
        self.optimizer = make_optimizer(config, classifier.network.parameters())
        self.scheduler = make_scheduler(config, self.optimizer)
        self.stopping = EarlyStopping(config.patience)
        self.history: list[dict[str, Any]] = []

    def fit(self) -> Outcome:
        """Train until the epochs are used up or validation accuracy stops rising."""
        self.progress.start(self.config.epochs, self.train_loader.steps)
        best: Metrics | None = None
        seconds = 0.0
        try:
            while len(self.history) < self.config.epochs and not self.stopping.exhausted:
                epoch = len(self.history) + 1
                began = time.perf_counter()
                lr = float(self.optimizer.param_groups[0]["lr"])
                train_loss = self.train_epoch(epoch)
                trained = time.perf_counter() - began
                seconds += trained
                metrics = evaluate(self.val_labels, predict(self.classifier, self.val_loader))
                if self.scheduler:
                    self.scheduler.step(metrics.loss)
                better = self.stopping.update(epoch, metrics.accuracy, metrics.loss)
                best = metrics if better or best is None else best
                entry = {
                    "epoch": epoch,
                    "lr": lr,
                    "train_loss": train_loss,
                    "val_loss": metrics.loss,
                    "val_accuracy": metrics.accuracy,
                    "val_f1": metrics.f1,
                    "val_auc": metrics.auc,
                    "seconds": round(time.perf_counter() - began, 3),
                    "images_per_second": round(self._rows_an_epoch / trained, 1),
                }
                self.history.append(entry)
                self._save(epoch, metrics, better)
                self.progress.epoch(entry, better)
        finally:
            self.progress.close()
        assert best is not None
        return Outcome(
            best_epoch=self.stopping.best_epoch,
            best=best,
            history=self.history,
            stopped_early=self.stopping.exhausted and len(self.history) < self.config.epochs,
            train_seconds=seconds,
            images_per_second=self._rows_an_epoch * len(self.history) / seconds,
        )

    def train_epoch(self, epoch: int) -> float:
        """One pass over as many rows as the training split has; the mean cross-entropy over its batches."""
        generator = seed_everything(self.config.seed, epoch)
        rows = len(self.train_loader)
        order = shuffled(rows, generator) if self.weights is None else balanced(self.weights, generator)
        preprocess, network = self.classifier.preprocess, self.classifier.network
        self.classifier.train()
        total = torch.zeros((), device=self.device)
        for images, labels in self.train_loader.draw(order):
            with torch.no_grad():
                pixels = preprocess.resize(images)
                if self.augment:
                    pixels = self.augment(pixels, generator)
                pixels = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(network(pixels), labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()  # read once an epoch: an .item() here would wait for the device every batch
            self.progress.step()
        return float(total / self.train_loader.steps)

    @property
    def _rows_an_epoch(self) -> int:
        return min(len(self.train_loader), self.train_loader.steps * self.config.batch_size)

    def _save(self, epoch: int, metrics: Metrics, better: bool) -> None:
        """Write this epoch; `best.pt` first, so that `last.pt` never names a best epoch that is not there."""
        weights = {key: value.detach().cpu() for key, value in self.classifier.network.state_dict().items()}
        state = Checkpoint(
            config=self.config,
            spec=self.classifier.spec,
            data=self.data,
            epoch=epoch,
            metrics=metrics.as_json(),
            environment=self.environment,
            weights=weights,
            training={},
            digest=checkpoint.weights_digest(weights),
        )
        self.folder.open(self.config.as_json())
        if better:
            checkpoint.save(self.folder / journal.BEST, state)
        checkpoint.save(self.folder / journal.LAST, state)
        self.folder.record(self.history)
