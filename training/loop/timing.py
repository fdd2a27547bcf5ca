"""How long an epoch will take, measured on a few real steps of this machine before a run starts."""

import time

import torch

from training.loop.loader import Batch, shuffled
from training.loop.prediction import BATCH_ROWS
from training.loop.trainer import Trainer

ROWS = 8  # of a small step; two sizes of it tell what a row takes apart from what a step takes
WHOLE_SECONDS = 2.0  # a whole batch that takes less is measured itself
STEPS = 3


def seconds_an_epoch(trainer: Trainer) -> float:
    """Return the seconds of one epoch with its validation, from a few training steps, which change the weights.

    Where a whole batch would take long, from two small ones; steps, data and augmentation are the real ones, validation
    is counted as what a forward pass of it takes.
    """
    loader, device = trainer.train_loader, trainer.process.device
    trainer.schedule.planned = None  # it ends with the steps of the run
    generator = torch.Generator().manual_seed(0)
    batch = next(loader.training_batches(shuffled(len(loader), generator)))
    trainer.classifier.train()
    rows = len(batch.images)
    few, more = (min(count, rows) for count in (ROWS, 2 * ROWS))
    _timed(trainer, _first(batch, few), generator)  # allocations and plans
    short = min(_timed(trainer, _first(batch, few), generator) for _ in range(2))
    long = min(_timed(trainer, _first(batch, more), generator) for _ in range(2)) if more > few else short
    a_row = max(0.0, long - short) / (more - few) if more > few else short / few
    a_step = short + a_row * (rows - few)
    if a_step < WHOLE_SECONDS or device.type == "cuda":
        _timed(trainer, batch, generator)
        a_step = min(_timed(trainer, batch, generator) for _ in range(STEPS))
    return a_step * loader.steps + _forward_seconds(trainer) * len(trainer.val_loader)


def _first(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch."""
    return Batch(batch.images[:rows], batch.labels[:rows], min(rows, batch.global_rows))


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
