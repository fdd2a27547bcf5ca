"""Training images a second of this loop beside the paper's per-image pipeline, in turn within one run.

The other side is written from the paper's description: a PIL image a row, resized, augmented, ToTensor,
Normalize, collated by a DataLoader with WeightedRandomSampler, float32, `.item()` after every batch; with as
many worker processes as are fastest here (0 or 2 are tried). Same network, same batch size, same rows. Each side
runs in a process of its own, one waiting while the other works, so that no setting of one helps the other.

    python -m benchmarks.training --data pathmnist-sample.npz
    python -m benchmarks.training --data pathmnist-sample.npz --against deterministic

Ratios are medians over rounds; absolute figures depend on the machine and on what else it does.
"""

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2

from benchmarks.gpu_rates import matrix_rate, training_flops
from benchmarks.results import Report, Table, json_option
from training.config import TrainConfig, resolve
from training.loop.device import choose_device, choose_precision, seed_everything, set_up
from training.loop.distributed import Process
from training.loop.plan import balanced_weights
from training.loop.trainer import Trainer
from training.models.classifier import Classifier
from training.models.registry import build
from training.policies import POLICIES
from training.prepare import Prepared, prepare
from xtrain import console
from xtrain.data.datasets import Split
from xtrain.data.statistics import channel_statistics


@dataclass(frozen=True)
class Case:
    """One comparison: a model at a size, on how many rows a round."""

    model: str
    image_size: int
    rows: int


CPU = [Case("simplecnn", 28, 3200), Case("resnet18", 28, 640), Case("resnet18", 224, 128)]
CUDA = [
    Case("simplecnn", 28, 64_000),
    Case("resnet18", 28, 32_000),
    Case("resnet18", 224, 6400),
    Case("resnet152", 224, 3200),
    Case("xception", 168, 3200),
]

# DataLoader's own default on Linux; in a process that was spawned, its workers would each import torch anew.
FORK = "fork" if sys.platform == "linux" else None


class PaperRows(Dataset[tuple[torch.Tensor, int]]):
    """One PIL image at a time, changed as a policy says that has flips, nearest-pixel rotation and jitter only."""

    def __init__(self, split: Split, size: int, statistics: tuple[Sequence[float], Sequence[float]], augment: str):
        """Compose the transforms; `statistics` are mean and standard deviation a channel in units of [0, 1]."""
        self.split, policy = split, POLICIES[augment]
        changes = [v2.Resize((size, size))]
        if policy is not None:
            changes += [
                v2.RandomHorizontalFlip(policy.horizontal_flip),
                v2.RandomVerticalFlip(policy.vertical_flip),
                v2.RandomApply([v2.RandomRotation(policy.degrees)], policy.rotate),
            ]
        if policy is not None and policy.jitter:
            strength = [policy.strength] * 3
            changes.append(v2.RandomApply([v2.ColorJitter(*strength, policy.hue)], policy.jitter))
        tensors = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics)]
        self.change = v2.Compose([*changes, *tensors])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        assert self.split.labels is not None
        image = self.split.images[index]
        return self.change(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)), int(
            self.split.labels[index]
        )


def paper_network(ready: Prepared, device: torch.device) -> nn.Module:
    """Make the network with the seed's fresh weights."""
    spec = ready.spec
    seed_everything(ready.config.seed)
    return build(
        ready.config.model,
        channels=spec.shape[2],
        classes=len(spec.classes),
        image_size=ready.input_size,
        **spec.switches,
    ).to(device)


def paper_loader(ready: Prepared, device: torch.device, workers: int) -> DataLoader[tuple[torch.Tensor, int]]:
    """Make the DataLoader of the training rows, drawn with replacement so that all classes are equally frequent."""
    assert ready.splits.train.labels is not None and ready.config.augment is not None
    weights = balanced_weights(ready.splits.train.labels, ready.spec.classes)
    statistics = channel_statistics(ready.splits.train.images)
    return DataLoader(
        PaperRows(ready.splits.train, ready.spec.image_size, statistics, ready.config.augment),
        batch_size=ready.config.batch_size,
        sampler=WeightedRandomSampler(weights.tolist(), len(weights)),
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=FORK if workers else None,
        pin_memory=device.type == "cuda",
    )


@dataclass(frozen=True)
class PaperTraining:
    """The paper's loop over one epoch."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[tuple[torch.Tensor, int]]
    device: torch.device

    def epoch(self) -> None:
        """Train over as many rows as the split has."""
        self.network.train()
        total = 0.0
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.network(images.to(self.device)), labels.to(self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item()


def paper_training(ready: Prepared, device: torch.device, workers: int) -> PaperTraining:
    """Set the paper's loop up."""
    network = paper_network(ready, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=ready.config.lr)
    return PaperTraining(network, optimizer, paper_loader(ready, device, workers), device)


def paper_epoch(ready: Prepared, device: torch.device, workers: int) -> Callable[[], None]:
    """The paper's loop over one epoch."""
    return paper_training(ready, device, workers).epoch


def our_epoch(ready: Prepared, device: torch.device, workers: int = 0) -> Callable[[], None]:
    """This project's loop over one epoch, the trainer's own, set up as `training.run` does; it has no workers."""
    set_up(device, ready.config.deterministic)
    seed_everything(ready.config.seed)
    trainer = Trainer(ready.config, Classifier(ready.spec), ready.splits, Process(device))
    epochs = iter(range(1, 1_000_000))
    return lambda: _finish(trainer.train_epoch(next(epochs))[0], device)


def _finish(_: float, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def repeated(split: Split, rows: int) -> Split:
    """As many rows as asked for, repeating those there are."""
    assert split.labels is not None
    chosen = np.resize(np.arange(len(split)), rows)
    return Split(split.images[chosen], split.labels[chosen])


class Side:
    """One loop in a process of its own."""

    def __init__(self, ours: bool, ready: Prepared, device: torch.device, workers: int = 0) -> None:
        """Start the process; it does nothing until `rate` is called."""
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, ours, ready, device, workers))
        self.process.start()
        there.close()

    def rate(self) -> float:
        """Images a second of one epoch."""
        self.connection.send(True)
        return float(self.connection.recv())

    def end(self) -> None:
        """Let the process finish."""
        with contextlib.suppress(OSError):  # it died of an error that it has printed
            self.connection.send(False)
        self.process.join()


def serve(connection: Connection, ours: bool, ready: Prepared, device: torch.device, workers: int) -> None:
    """Run an epoch whenever asked to and answer with its images a second."""
    epoch = (our_epoch if ours else paper_epoch)(ready, device, workers)
    while connection.recv():
        began = time.perf_counter()
        epoch()
        connection.send(len(ready.splits.train) / (time.perf_counter() - began))


def compare(case: Case, data: str, device: torch.device, rounds: int, precision: str, against: str) -> dict[str, Any]:
    """Both loops in turn; medians and the median of the ratios."""
    config: TrainConfig = resolve(
        case.model, data, image_size=case.image_size, batch_size=64, pretrained=False, augment="paper-intended"
    )
    ready = prepare(replace(config, precision=choose_precision(precision, device)))
    ready = replace(ready, splits=replace(ready.splits, train=repeated(ready.splits.train, case.rows)))
    ours = Side(True, ready, device)
    if against == "deterministic":
        others = {0: Side(True, replace(ready, config=replace(ready.config, deterministic=True)), device)}
    else:
        others = {workers: Side(False, ready, device, workers) for workers in (0, 2)}
    try:
        ours.rate()
        # The first call of each side warms it up and starts its workers; the second decides.
        speeds = {workers: (side.rate(), side.rate())[1] for workers, side in others.items()}
        workers = max(speeds, key=lambda key: speeds[key])
        pairs = [(ours.rate(), others[workers].rate()) for _ in range(rounds)]
    finally:
        for side in (ours, *others.values()):
            side.end()
    ours_rate = statistics.median(first for first, _ in pairs)
    row: dict[str, Any] = {
        "case": f"{case.model} at {case.image_size}",
        "ours": ours_rate,
        "other": statistics.median(second for _, second in pairs),
        "workers": workers,
        "ratio": statistics.median(first / second for first, second in pairs),
        "lowest": min(first / second for first, second in pairs),
        "highest": max(first / second for first, second in pairs),
        "precision": ready.config.precision,
    }
    if device.type == "cuda":
        row["share"] = ours_rate * training_flops(ready.spec) / matrix_rate(device)
    return row


def report(rows: Iterator[dict[str, Any]], device: torch.device, against: str) -> Table:
    """Print a Markdown table, a row as soon as it is known."""
    other = "paper's pipeline" if against == "paper" else "with --deterministic"
    caption = f"Images a second in batches of 64, {torch.get_num_threads()} threads, torch {torch.__version__}."
    table = Table(caption, ["case", "this loop", other, "ratio (lowest to highest)", "share of bf16 rate"])
    click.echo(table.head())
    for row in rows:
        share = f"{row['share']:.0%}" if "share" in row else "-"
        sides = [f"{row['ours']:.0f}", f"{row['other']:.0f} ({row['workers']} workers)"]
        ratio = f"{row['ratio']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})"
        table.rows.append([f"{row['case']} ({row['precision']})", *sides, ratio, share])
        click.echo(table.line(table.rows[-1]))
        sys.stdout.flush()
    return table


@click.command()
@click.option("--data", required=True, help="Path of a PathMNIST .npz.")
@click.option("--rounds", default=3, show_default=True, help="Pairs to take the median of.")
@click.option("--rows", type=click.IntRange(64), help="Rows a round [default: what takes a second or more].")
@click.option("--case", "only", multiple=True, help="Only the cases whose name holds this, such as 'simplecnn'.")
@click.option(
    "--against",
    type=click.Choice(["paper", "deterministic"]),
    default="paper",
    show_default=True,
    help="The other side: the paper's pipeline, or this loop with --deterministic.",
)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--device", "device_name", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def main(data: str, rounds: int, rows: int | None, only: tuple[str, ...], against: str, **options: Any) -> None:
    """Compare the training loops."""
    device, precision = choose_device(options["device_name"]), options["precision"]
    cases = CUDA if device.type == "cuda" else CPU
    cases = [replace(case, rows=rows or case.rows) for case in cases]
    chosen = [case for case in cases if not only or any(word in f"{case.model} at {case.image_size}" for word in only)]
    measured = (compare(case, data, device, rounds, precision, against) for case in chosen)
    table = report(measured, device, against)
    if options["json_file"]:
        Report.make([table], torch.cuda.get_device_name(device) if device.type == "cuda" else "").write(
            options["json_file"]
        )


if __name__ == "__main__":
    console.run(main)
