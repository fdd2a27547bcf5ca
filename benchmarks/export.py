"""Every architecture, and three ensembles, exported: file size, export time, difference from torch, speed.

    python -m benchmarks.export --data pathmnist-sample.npz

Each network is trained for one epoch on 224 rows at its recipe's size first, so that what is compared are weights
and BatchNorm statistics of real images, not initial ones; nothing is said about accuracy. Speed is images a second of
onnxruntime on the CPU, raw pixels in and probabilities out, the median of runs that take two seconds together.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from benchmarks.results import Report, Table, json_option
from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from training.models.registry import ARCHITECTURES
from training.run import train
from xtrain import console
from xtrain.data.datasets import read_npz
from xtrain.errors import ExportError

ENSEMBLES = [["resnet152", "resnet152"], ["resnet152", "xception"], ["simplecnn", "simplecnn", "simplecnn"]]
TRAIN_ROWS, VAL_ROWS = 224, 32  # together the 256 images of the comparison


def excerpt(data: Path, folder: Path) -> Path:
    """The first rows of the file, in a file of the same name, so that class names are found."""
    read_npz(data)  # says what is wrong with another file
    path = folder / data.name
    with np.load(data) as arrays:
        rows = {"train": TRAIN_ROWS, "val": VAL_ROWS, "test": VAL_ROWS}
        np.savez(path, **{key: arrays[key][: rows[key.split("_")[0]]] for key in arrays.files})
    return path


def trained(model: str, seed: int, data: Path, folder: Path) -> Path:
    """The run folder of one epoch, trained if it is not there yet."""
    run = folder / f"{model}-{seed}"
    if not run.exists():
        options = {"output": run, "device": "cpu", "seed": seed, "epochs": 1, "pretrained": False}
        train(model, str(data), options)
    return run


def rate(predictor: Predictor, images: np.ndarray, seconds: float = 2.0) -> float:
    """Images a second, the median over the runs of about two seconds, at least three."""
    predictor.predict(images)
    took: list[float] = []
    while sum(took) < seconds or len(took) < 3:
        began = time.perf_counter()
        predictor.predict(images)
        took.append(time.perf_counter() - began)
    return len(images) / statistics.median(took)


def row(names: Sequence[str], data: Path, folder: Path, precision: str) -> list[str]:
    """One row of the table."""
    runs = [trained(name, 22 + names[:index].count(name), data, folder) for index, name in enumerate(names)]
    output = folder / "model.onnx"
    began = time.perf_counter()
    try:
        done = export_runs(runs, output, ExportOptions(precision=precision, overwrite=True))
    except ExportError as error:
        return [" + ".join(names), str(error), "", "", "", ""]
    seconds = time.perf_counter() - began
    predictor = Predictor(output, "cpu")
    with np.load(data) as arrays:
        images = arrays["train_images"][:32]
    sides = sorted({str(member.crop or member.image_size) for member in done.card.members}, reverse=True)
    title = (
        f"{len(names)} x `{names[0]}`"
        if len(names) > 1 and len(set(names)) == 1
        else " + ".join(map("`{}`".format, names))
    )
    speeds = [f"{rate(predictor, images[:rows]):.3g}" for rows in (1, 32)]
    size, difference = f"{done.bytes / 1e6:.1f}", f"{done.parity.max_difference:.1e}"
    return [f"{title} at {', '.join(sides)}", size, f"{seconds:.0f}", difference, *speeds]


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="A PathMNIST .npz.")
@click.option("--only", multiple=True, help="Only these, such as resnet18 or simplecnn+simplecnn.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@json_option
def main(data: Path, only: tuple[str, ...], precision: str, json_file: Path | None) -> None:
    """Print the table, a row as soon as it is known."""
    table = Table("", ["model", "MB", "export, s", "largest difference", "images/s, batch 1", "batch 32"])
    click.echo(table.head())
    chosen = [name.split("+") for name in only] or [*([name] for name in ARCHITECTURES), *ENSEMBLES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = excerpt(data, folder)
        for names in chosen:
            table.rows.append(row(names, data, folder, precision))
            click.echo(table.line(table.rows[-1]))
            sys.stdout.flush()
    if json_file:
        Report.make([table]).write(json_file)


if __name__ == "__main__":
    console.run(main)
