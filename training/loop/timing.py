"""How long an epoch will take, measured on a few real steps of this machine before a run starts."""

import time

import torch

from training.loop.loader import Batch
from training.loop.prediction import batch_rows
from training.loop.trainer import Trainer

ROWS = 8  # of a small step; two sizes of it tell what a row takes apart from what a step takes
WHOLE_SECONDS = 2.0  # a whole batch that takes less is measured itself
STEPS = 3


def seconds_an_epoch(trainer: Trainer) -> float:
    """Return the seconds of one epoch with its validation, from a few training steps, which change the weights.

    Where a whole batch would take long, from two small ones; steps, data and augmentation are the real ones, validation
    is counted as what a forward pass of it takes.
    """
    device = trainer.process.device
    batch = next(trainer.train_loader.training_batches(trainer.plan(1), 1))
    trainer.step.train_mode()
    rows = len(batch.images)
    few, more = (min(count, rows) for count in (ROWS, 2 * ROWS))
    _timed(trainer, _first(batch, few))  # allocations and plans
    short = min(_timed(trainer, _first(batch, few)) for _ in range(2))
    long = min(_timed(trainer, _first(batch, more)) for _ in range(2)) if more > few else short
    a_row = max(0.0, long - short) / (more - few) if more > few else short / few
    a_step = short + a_row * (rows - few)
    if a_step < WHOLE_SECONDS or device.type == "cuda":
        _timed(trainer, batch)
        a_step = min(_timed(trainer, batch) for _ in range(STEPS))
    return a_step * trainer.shape.batches + _forward_seconds(trainer) * len(trainer.val_loader)


def _first(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch."""
    return Batch(batch.images[:rows], batch.labels[:rows], batch.parts[:rows], min(rows, batch.global_rows))


def _timed(trainer: Trainer, batch: Batch) -> float:
    began = time.perf_counter()
    trainer.step(batch).tolist()  # waits for the device
    return time.perf_counter() - began


def _forward_seconds(trainer: Trainer) -> float:
    """Return the seconds of one validation image."""
    images = next(trainer.val_loader.ordered_batches(min(ROWS, batch_rows(trainer.process.device))))
    classifier = trainer.validated.eval()
    began = time.perf_counter()
    with torch.inference_mode():
        classifier(images).sum().item()
    return (time.perf_counter() - began) / len(images)
