"""Training images a second of this loop beside the paper's per-image pipeline, in turn within one run.

The other side is written from the paper's description: a PIL image a row, resized, augmented, ToTensor,
Normalize, collated by a DataLoader with WeightedRandomSampler, float32, `.item()` after every batch; with as
many worker processes as are fastest here (0 or 2 are tried). Same network, same batch size, same rows.

    python -m benchmarks.training --data pathmnist-sample.npz

Ratios are medians over rounds; absolute figures depend on the machine and on what else it does.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2

from training.config import TrainConfig, resolve
from training.datasets import Split, channel_statistics
from training.environment import choose_device, choose_precision
from training.journal import RunFolder
from training.loader import balanced_weights
from training.models import build
from training.pipeline import Classifier, ModelSpec
from training.run import Prepared, prepare
from training.seeding import seed_everything
from training.trainer import Trainer


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
    assert ready.train.labels is not None
    weights = balanced_weights(ready.train.labels, spec.classes)
    loader = DataLoader(
        PaperRows(ready.train, spec.image_size),
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


def our_epoch(ready: Prepared, device: torch.device) -> Callable[[], None]:
    """This project's loop over one epoch, the trainer's own."""
    seed_everything(ready.config.seed)
    trainer = Trainer(
        ready.config,
        Classifier(ready.spec),
        ready.train,
        ready.val,
        ready.record,
        {},
        device,
        RunFolder(Path("nothing-is-written")),
    )
    epochs = iter(range(1, 1_000_000))
    return lambda: _finish(trainer.train_epoch(next(epochs)), device)


def _finish(_: float, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def repeated(split: Split, rows: int) -> Split:
    """As many rows as asked for, repeating those there are."""
    assert split.labels is not None
    chosen = np.resize(np.arange(len(split)), rows)
    return Split(split.images[chosen], split.labels[chosen])


def rates(epoch: Callable[[], None], rows: int) -> float:
    """Images a second of one call."""
    began = time.perf_counter()
    epoch()
    return rows / (time.perf_counter() - began)


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


def compare(case: Case, data: str, device: torch.device, rounds: int, precision: str) -> dict[str, Any]:
    """Both loops in turn; medians and the median of the ratios."""
    config: TrainConfig = resolve(
        case.model, data, image_size=case.image_size, batch_size=64, pretrained=False, augment="paper"
    )
    ready = prepare(replace(config, precision=choose_precision(precision, device)), None, None)
    ready = replace(ready, train=repeated(ready.train, case.rows))
    ours = our_epoch(ready, device)
    sides = {workers: paper_epoch(ready, device, workers) for workers in (0, 2)}
    ours()
    # The first call of each side warms it up and starts its workers; the second decides.
    speeds = {workers: (rates(side, case.rows), rates(side, case.rows))[1] for workers, side in sides.items()}
    workers = max(speeds, key=lambda key: speeds[key])
    paper = sides[workers]
    pairs = [(rates(ours, case.rows), rates(paper, case.rows)) for _ in range(rounds)]
    ours_rate = statistics.median(first for first, _ in pairs)
    row: dict[str, Any] = {
        "case": f"{case.model} at {case.image_size}",
        "ours": ours_rate,
        "paper": statistics.median(second for _, second in pairs),
        "workers": workers,
        "ratio": statistics.median(first / second for first, second in pairs),
        "lowest": min(first / second for first, second in pairs),
        "highest": max(first / second for first, second in pairs),
        "precision": ready.config.precision,
    }
    if device.type == "cuda":
        row["share"] = ours_rate * training_flops(ready.spec) / matrix_rate(device)
    return row


def report(rows: Iterator[dict[str, Any]], device: torch.device) -> None:
    """A Markdown table, a row as soon as it is known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    click.echo(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch 64, images a second")
    click.echo("\n| case | this loop | paper's pipeline | ratio (lowest to highest) | share of bf16 rate |")
    click.echo("|---|---|---|---|---|")
    for row in rows:
        share = f"{row['share']:.0%}" if "share" in row else "-"
        click.echo(
            f"| {row['case']} ({row['precision']}) | {row['ours']:.0f} | {row['paper']:.0f} ({row['workers']} workers) "
            f"| {row['ratio']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f}) | {share} |"
        )
        sys.stdout.flush()


@click.command()
@click.option("--data", required=True, help="Path of a PathMNIST .npz.")
@click.option("--rounds", default=3, show_default=True, help="Pairs to take the median of.")
@click.option("--case", "only", multiple=True, help="Only the cases whose name holds this, such as 'simplecnn'.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--device", "device_name", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def main(data: str, rounds: int, only: tuple[str, ...], precision: str, device_name: str) -> None:
    """Compare the training loops."""
    device = choose_device(device_name)
    cases = CUDA if device.type == "cuda" else CPU
    chosen = [case for case in cases if not only or any(word in f"{case.model} at {case.image_size}" for word in only)]
    report((compare(case, data, device, rounds, precision) for case in chosen), device)


if __name__ == "__main__":
    main()
