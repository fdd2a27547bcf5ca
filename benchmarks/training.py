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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2

from benchmarks.results import Report, Table, json_option
from training.config import TrainConfig, resolve
from training.loop.device import choose_device, choose_precision, seed_everything, set_up
from training.loop.distributed import Process
from training.loop.plan import balanced_weights
from training.loop.trainer import Trainer
from training.models.classifier import Classifier, ModelSpec
from training.models.registry import build
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


class PaperRows(Dataset[tuple[torch.Tensor, int]]):
    """One PIL image at a time."""

    def __init__(self, split: Split, size: int) -> None:
        mean, std = channel_statistics(split.images)
        self.split = split
        self.change = v2.Compose(
            [
                v2.Resize((size, size)),
                v2.RandomHorizontalFlip(0.1),
                v2.RandomVerticalFlip(0.1),
                v2.RandomApply([v2.RandomRotation(30)], 0.1),
                v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.05)], 0.1),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        assert self.split.labels is not None
        return self.change(Image.fromarray(self.split.images[index])), int(self.split.labels[index])


def paper_epoch(ready: Prepared, device: torch.device, workers: int) -> Callable[[], None]:
    """The paper's loop over one epoch."""
    config, spec = ready.config, ready.spec
    seed_everything(config.seed)
    network = build(
        config.model, channels=spec.shape[2], classes=len(spec.classes), image_size=spec.crop or spec.image_size
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    assert ready.splits.train.labels is not None
    weights = balanced_weights(ready.splits.train.labels, spec.classes)
    loader = DataLoader(
        PaperRows(ready.splits.train, spec.image_size),
        batch_size=config.batch_size,
        sampler=WeightedRandomSampler(weights.tolist(), len(weights)),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def epoch() -> None:
        network.train()
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images.to(device)), labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()

    return epoch


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


def matrix_rate(device: torch.device) -> float:
    """Measured bf16 matrix FLOP/s of the device, on 8192 x 8192 matrices."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - began)


def training_flops(spec: ModelSpec) -> float:
    """FLOP of one image forward and backward, counted on shapes."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        classifier = Classifier(spec).train()
        size = classifier.preprocess.output_size
        pixels = torch.empty(2, spec.shape[2], size, size)
    with FlopCounterMode(display=False) as counter:
        classifier.network(pixels).sum().backward()
    return float(counter.get_total_flops()) / 2


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
