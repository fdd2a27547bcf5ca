"""The training loop: from two splits to the best epoch's weights.

Flows in: a configuration, a `Classifier`, two splits. Flows out, after every epoch, through the recorder: `last.pt`,
`metrics.jsonl` and, where the monitored figure became better, `best.pt`. One process or several compute the same.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from training.config import TrainConfig
from training.loop.device import peak_memory, seed_everything
from training.loop.distributed import Process, all_reduce_max, all_reduce_min, all_reduce_sum, broadcast_buffers
from training.loop.estimate import batch_advice, forward_bytes, memory_advice
from training.loop.loader import Loader
from training.loop.plan import Balanced, BatchShape, EpochPlan, Shuffled, balanced_weights, class_weights, plan_epoch
from training.loop.prediction import batch_rows, predict
from training.loop.schedule import EarlyStopping, Schedule
from training.loop.step import Step
from training.models.classifier import Classifier
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
        labels = splits.train.labels
        assert labels is not None and splits.val.labels is not None
        self.config, self.process, self.recorder, self.watchers = config, process, recorder, list(watchers)
        self.shape = BatchShape.of(len(labels), config.batch_size, config.accumulate, process.world_size)
        self.classifier = classifier.to(process.device).to(memory_format=torch.channels_last)
        with memory_advice("for the images of the two splits; --stream reads them from disk as they are needed"):
            self.train_loader, self.val_loader = Loader(splits.train, process), Loader(splits.val, process)
        self.val_labels, classes = splits.val.labels, classifier.spec.classes
        self.order = Balanced(balanced_weights(labels, classes)) if config.balance else Shuffled(len(labels))
        weights = class_weights(labels, classes).to(process.device) if config.class_weights else None
        self.step = Step(config, classifier, process, weights)
        self.schedule = Schedule(config, self.step.optimizer, self.updates)
        self.stopping = EarlyStopping(config.patience, config.monitor)
        self.validate = torch.compile(self.validated) if config.compile else None
        self.history: list[dict[str, Any]] = []
        self.best: Metrics | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Future[None], dict[str, Any], Metrics, bool] | None = None

    @property
    def updates(self) -> int:
        """Updates of the weights in a whole epoch."""
        return self.shape.batches // self.config.accumulate

    @property
    def batches_left(self) -> int:
        """Batches of the epoch that comes next."""
        return self._updates_left() * self.config.accumulate

    @property
    def validated(self) -> Classifier:
        """The classifier that is validated and written: with averaged weights where there are any."""
        return self.step.average.classifier if self.step.average else self.classifier

    def restore(self, saved: Checkpoint, best: Metrics) -> None:
        """Continue after the epoch that `saved`, a `last.pt`, was written in; `best` are the best epoch's metrics."""
        state, step = saved.training, self.step
        self.classifier.network.load_state_dict(state["weights"] if step.average else saved.weights)
        if step.average:
            step.average.restore(dict(saved.weights), state["averaged"])
        step.load_optimizer_state(state["optimizer"])
        step.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self.stopping = EarlyStopping(**{**state["stopping"], "patience": self.config.patience})
        self.history = list(state["history"])
        self.best = best

    def fit(self, time_limit: float | None = None) -> Outcome:
        """Train until epochs or updates are used up, the monitored figure stops improving, or time is over.

        Args:
            time_limit: seconds after which no epoch begins that would, by the time of the one before, end later.

        Raises:
            TrainingError: the loss is no longer finite.
            OutputError: an epoch cannot be written; those before it are kept.
        """
        began = time.perf_counter()
        for watcher in self.watchers:
            watcher.start(self.config.epochs, self.shape.batches, len(self.history))
        try:
            while self._goes_on(began, time_limit):
                self._epoch(len(self.history) + 1)
        finally:
            try:
                self._settle()
            finally:
                self._writer.shutdown()
                for watcher in self.watchers:
                    watcher.close()
                self.step.close()
        assert self.best is not None
        seconds = sum(entry["train_seconds"] for entry in self.history)
        images = sum(entry["images_per_second"] * entry["train_seconds"] for entry in self.history)
        return Outcome(
            best_epoch=self.stopping.best_epoch,
            best=self.best,
            history=self.history,
            stopped_early=self.stopping.exhausted and len(self.history) < self.config.epochs,
            seconds=sum(entry["seconds"] for entry in self.history),
            train_seconds=seconds,
            images_per_second=images / seconds,
        )

    def _goes_on(self, began: float, time_limit: float | None) -> bool:
        """Return whether another epoch begins; every process comes to the same answer."""
        if len(self.history) >= self.config.epochs or self.stopping.exhausted or not self._updates_left():
            return False
        if time_limit is None or not self.history:
            return True
        late = time.perf_counter() - began + self.history[-1]["seconds"] > time_limit
        return not all_reduce_max(torch.tensor(float(late), device=self.process.device), self.process)

    def _updates_left(self) -> int:
        """Return how many updates the next epoch has."""
        if self.config.max_steps is None:
            return self.updates
        done = sum(entry.get("updates", self.updates) for entry in self.history)
        return max(0, min(self.updates, self.config.max_steps - int(done)))

    def plan(self, epoch: int) -> EpochPlan:
        """Draw an epoch's order and augmentation, a function of the seed and its number, and seed dropout for it."""
        generator = seed_everything(self.config.seed, epoch, self.process.rank)
        return plan_epoch(self.order, self.shape, self.step.layout, self.process, generator)

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train over as many rows as the training split has; return the mean loss and the accuracy over them.

        Both are of the augmented images, with dropout, while the weights change; so below what validation would give.

        Raises:
            TrainingError: a loss that is not finite, with the batch and the learning rate it happened at.
        """
        if self.step.frozen != (epoch <= self.config.freeze):
            self.step.prepare(frozen=epoch <= self.config.freeze)
        plan, accumulate = self.plan(epoch), self.config.accumulate
        batches = self.batches_left
        self.step.train_mode()
        # Both are read once an epoch: an .item() in the loop would wait for the device at every batch.
        total = torch.zeros(2, device=self.process.device)  # summed loss, rows that were right
        finite_batches = torch.zeros((), device=self.process.device, dtype=torch.long)
        rates = []
        size, advice = self.classifier.preprocess.output_size, batch_advice(self.config)
        with memory_advice(f"with batches of {self.config.batch_size} at {size} pixels; {advice}"):
            for number, batch in enumerate(self.train_loader.training_batches(plan, batches), start=1):
                rates.append(self.step.learning_rate)
                updates = number % accumulate == 0
                total += self.step(batch, updates)
                if updates:
                    self.schedule.after_update()
                finite_batches += total[0].isfinite()  # a sum that is not finite stays so: counts the batches before
                for watcher in self.watchers:
                    watcher.step()
                self._settle(wait=False)
        loss, right = all_reduce_sum(total, self.process).tolist()
        if not np.isfinite(loss):
            self._diverged(epoch, int(all_reduce_min(finite_batches, self.process)), rates)
        broadcast_buffers(self.classifier.network, self.process)
        if self.step.average:  # its BatchNorm statistics are an average of each process's own
            broadcast_buffers(self.step.average.classifier.network, self.process)
        rows = batches * self.shape.rows
        return loss / rows, right / rows

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
        """Train, validate, decide, and begin to write."""
        began, lr, updates = time.perf_counter(), self.step.learning_rate, self._updates_left()
        trained_to = self.train_epoch(epoch)
        trained = time.perf_counter() - began
        metrics = self._validate(epoch)
        self.schedule.after_epoch(metrics.loss)
        is_best = self.stopping.update(epoch, metrics)
        if is_best:
            self.best = metrics
        rows = updates * self.config.accumulate * self.shape.rows
        entry = epoch_record(epoch, lr, trained_to, metrics, rows, (trained, time.perf_counter() - began))
        entry |= {"updates": updates, "peak_memory_bytes": peak_memory(self.process.device)}
        self._settle()
        self.history = [*self.history, entry]
        if self.process.is_main:
            self._write(entry, metrics, is_best)

    def _validate(self, epoch: int) -> Metrics:
        device, size = self.process.device, self.classifier.preprocess.output_size
        rows = batch_rows(device, forward_bytes(self.classifier.spec)) if device.type == "cuda" else batch_rows(device)
        with memory_advice(f"while validating {rows} images at {size} pixels at a time; try a smaller --image-size"):
            probabilities = predict(self.validated, self.val_loader, rows, self.validate)
        if not np.isfinite(probabilities).all():
            raise TrainingError(
                f"the network's probabilities are not finite in epoch {epoch}; {self._kept(epoch)}; try a lower --lr"
            )
        return evaluate(self.val_labels, probabilities)

    def _write(self, entry: dict[str, Any], metrics: Metrics, is_best: bool) -> None:
        """Write the epoch in a thread, while the next one is trained, from copies of everything it changes."""
        if self.recorder is None:
            done: Future[None] = Future()
            done.set_result(None)
        else:
            weights, state = _on_cpu(self.validated.network.state_dict()), _on_cpu(self._state())
            done = self._writer.submit(self.recorder.write, weights, metrics, state, is_best)
        self._writing = (done, entry, metrics, is_best)

    def _settle(self, wait: bool = True) -> None:
        """Tell of the epoch that was being written once it is; raise what writing it raised."""
        if self._writing is None or not (wait or self._writing[0].done()):
            return
        (done, entry, metrics, is_best), self._writing = self._writing, None
        try:
            done.result()
        except BaseException:
            self.history = [before for before in self.history if before["epoch"] < entry["epoch"]]
            raise
        for watcher in self.watchers:
            watcher.epoch(entry, metrics, is_best)

    def _state(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the weights that are validated."""
        state: dict[str, Any] = {
            "optimizer": self.step.optimizer_state(),
            "scaler": self.step.scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stopping": asdict(self.stopping),
            "history": list(self.history),
        }
        if self.step.average:
            state |= {"weights": self.classifier.network.state_dict(), "averaged": self.step.average.steps}
        return state


def _on_cpu(value: Any) -> Any:
    """Return a copy of nested plain values with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
