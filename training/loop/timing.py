"""How long an epoch will take, measured on a few real steps of this machine before a run starts."""

import time

import torch

from training.loop.loader import Batch, shuffled
from training.loop.prediction import BATCH_ROWS
from training.loop.trainer import Trainer

ROWS = 8  # of the first step: it shows whether a whole batch can be waited for
PATIENCE_SECONDS = 0.5  # a first step that takes longer is measured as it is
STEPS = 5


def seconds_an_epoch(trainer: Trainer) -> float:
    """Return the seconds of one epoch with its validation, from a few training steps, which change the weights.

    On a small batch where a whole one would take long; steps, data and augmentation are the real ones, validation is
    counted as what a forward pass of it takes.
    """
    loader, device = trainer.train_loader, trainer.process.device
    trainer.schedule.planned = None  # it ends with the steps of the run
    generator = torch.Generator().manual_seed(0)
    batch = next(loader.training_batches(shuffled(len(loader), generator)))
    few = Batch(batch.images[:ROWS], batch.labels[:ROWS], min(ROWS, batch.global_rows))
    trainer.classifier.train()
    _timed(trainer, few, generator)  # allocations and plans
    seconds = _timed(trainer, few, generator) / len(few.images)
    if seconds * ROWS < PATIENCE_SECONDS or device.type == "cuda":
        _timed(trainer, batch, generator)
        seconds = min(_timed(trainer, batch, generator) for _ in range(STEPS)) / len(batch.images)
    return seconds * loader.rows_an_epoch + _forward_seconds(trainer) * len(trainer.val_loader)


def _timed(trainer: Trainer, batch: Batch, generator: torch.Generator) -> float:
    began = time.perf_counter()
    trainer.step(batch, generator).tolist()  # waits for the device
    return time.perf_counter() - began


def _forward_seconds(trainer: Trainer) -> float:
    """Return the seconds of one validation image."""
    batch = next(trainer.val_loader.ordered_batches(min(ROWS, BATCH_ROWS[trainer.process.device.type])))
    classifier = trainer.validated.eval()
    began = time.perf_counter()
    with torch.inference_mode():
        classifier(batch.images).sum().item()
    return (time.perf_counter() - began) / len(batch.images)
