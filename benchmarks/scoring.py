"""Scoring against raw onnxruntime on arrays in memory, and against the script that one would write instead.

    python -m benchmarks.scoring --data pathmnist-sample.npz

Images a second of whole runs in one process, the model loaded before: `xscore` reads, decodes, predicts and writes its
CSV; raw onnxruntime gets batches of an array and writes nothing; the script is Pillow, torch's DataLoader with a worker
a core, the eager network in inference mode, and `csv`. The sides take turns, and each ratio is the median over the
rounds of ratios within one. Networks are trained for one epoch; nothing is said about accuracy. `--memory-rows` adds
the peak memory of the command itself over so many rows.
"""

import csv
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.export import excerpt, trained
from benchmarks.results import Report, Table, json_option
from export.export import export_runs
from scoring.score import score
from scoring.sources.opening import ImageInput
from scoring.sources.tables import import_parquet
from scoring.writers.output import Destination
from serving.model.card import INPUT, OUTPUT
from serving.model.predictor import MAX_RUN, Predictor
from training.runs.checkpoint import load
from xtrain import console
from xtrain.data.datasets import read_npz

# The command, then its peak memory in KiB; that of `wait4` counts the process that started it, too.
MEASURED = """
import sys
sys.argv = sys.argv[1:]
from xtrain.entry import score
try:
    score()
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
FORMS = ("npz", "folder", "tar", "parquet")
BATCH = 256
CASES = {"simplecnn": 28, "resnet18": 224}  # side of the images as they are stored


def stored(images: np.ndarray, form: str, folder: Path) -> Path:
    """Write images in a form that is scored, and return its path."""
    path = folder / {"npz": "images.npz", "folder": "tiles", "tar": "images.tar", "parquet": "images.parquet"}[form]
    if path.exists():
        return path
    if form == "npz":
        np.savez(path, images=images)
        return path
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    if form == "folder":
        path.mkdir()
        for index, content in enumerate(encoded):
            (path / f"{index}.png").write_bytes(content)
    elif form == "tar":
        with tarfile.open(path, "w") as archive:
            for index, content in enumerate(encoded):
                member = tarfile.TarInfo(f"{index:08}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        import pyarrow

        import_parquet().write_table(pyarrow.table({"image": encoded}), path, row_group_size=1024)
    return path


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """What the script reads: an array, picture files, members of a tar, or cells of a table."""

    def __init__(self, path: Path, form: str) -> None:
        self.form, self.path = form, path
        if form == "npz":
            with np.load(path) as arrays:
                self.items: Any = arrays["images"]
        elif form == "folder":
            self.items = sorted(path.iterdir(), key=lambda file: int(file.stem))
        elif form == "tar":
            with tarfile.open(path) as archive:
                self.items = [(member.offset_data, member.size) for member in archive]
        else:
            self.items = import_parquet().read_table(path).column("image").to_pylist()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        item = self.items[index]
        if self.form == "npz":
            return torch.from_numpy(item)
        if self.form == "tar":
            with open(self.path, "rb") as file:
                file.seek(item[0])
                item = io.BytesIO(file.read(item[1]))
        if self.form == "parquet":
            item = io.BytesIO(item)
        return torch.from_numpy(np.array(Image.open(item).convert("RGB")))


def script(network: torch.nn.Module, path: Path, form: str, output: Path) -> None:
    """Score with the script."""
    loader = torch.utils.data.DataLoader(Files(path, form), batch_size=BATCH, num_workers=os.cpu_count() or 1)
    with open(output, "w") as file, torch.inference_mode():
        writer = csv.writer(file)
        writer.writerow(["ID", "CLASS"])
        row = 0
        for images in loader:
            chosen = network(images).argmax(dim=1).tolist()
            writer.writerows(enumerate(chosen, row))
            row += len(chosen)


def raw(predictor: Predictor, images: np.ndarray) -> None:
    """Run the session over an array in memory."""
    for start in range(0, len(images), MAX_RUN):
        predictor.session.run([OUTPUT], {INPUT: images[start : start + MAX_RUN]})


def seconds(run: Callable[[], object]) -> float:
    """Return how long a run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def rows_of(model: str, run: Path, images: np.ndarray, folder: Path, rounds: int) -> Iterator[list[str]]:
    """Yield a line of the table for each form: images a second, and the two ratios with their range."""
    export_runs([run], folder / f"{model}.onnx")
    predictor = Predictor(folder / f"{model}.onnx")
    network = load(run / "best.pt").classifier()
    raw(predictor, images[: 2 * MAX_RUN])
    for form in FORMS:
        path, output = stored(images, form, folder), folder / "out.csv"
        destination = Destination(output, overwrite=True)
        sides: dict[str, Callable[[], object]] = {
            "raw": partial(raw, predictor, images),
            "xscore": partial(score, predictor, ImageInput(str(path)), destination),
            "script": partial(script, network, path, form, folder / "script.csv"),
        }
        took: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in (list(sides), list(reversed(sides)))[number % 2]:
                took[side].append(seconds(sides[side]))
        speeds = [f"{len(images) / statistics.median(took[side]):,.0f}" for side in sides]
        to_raw = [raw_s / ours for raw_s, ours in zip(took["raw"], took["xscore"], strict=True)]
        to_script = [theirs / ours for theirs, ours in zip(took["script"], took["xscore"], strict=True)]
        yield [f"{model}, {images.shape[1]} px, {form}", *speeds, spread(to_raw, 2), spread(to_script, 1)]


def spread(ratios: list[float], digits: int) -> str:
    """Return the median of ratios with their range."""
    return f"{statistics.median(ratios):.{digits}f} ({min(ratios):.{digits}f}-{max(ratios):.{digits}f})"


def enlarged(images: np.ndarray, side: int, count: int) -> np.ndarray:
    """Return so many images of a side, the given ones again and again."""
    if images.shape[1] != side:
        images = np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in images[:count]])
    return np.tile(images, (-(-count // len(images)), 1, 1, 1))[:count]


def peak_memory(model: Path, images: np.ndarray, rows: int, folder: Path) -> tuple[int, float]:
    """Return the peak resident bytes and the seconds of the command over an `.npz` of so many rows."""
    path = folder / "rows.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *images.shape[1:])}
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, len(images)):
            file.write(images[: rows - start].tobytes())
    words = ["xscore", str(model), str(path), "-o", str(folder / "rows.csv"), "--overwrite"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        raise click.ClickException(f"xscore ended with {done.returncode}: {done.stderr.strip()}")
    path.unlink()
    return int(done.stdout.split()[-1]) * 1024, took


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="A PathMNIST .npz.")
@click.option("--case", type=click.Choice(list(CASES)), help="Only this network.")
@click.option(
    "--rows", nargs=2, type=int, default=(45_000, 400), show_default=True, help="Images at 28 and 224 pixels."
)
@click.option("--rounds", default=3, show_default=True, help="Of all sides, in turns.")
@click.option("--memory-rows", multiple=True, type=int, help="Measure the peak memory over so many rows; repeat it.")
@json_option
def main(
    data: Path,
    case: str | None,
    rows: tuple[int, int],
    rounds: int,
    memory_rows: tuple[int, ...],
    json_file: Path | None,
) -> None:
    """Print the tables, a row as soon as it is known."""
    speed = Table(
        "Images a second", ["what", "raw onnxruntime", "`xscore`", "script", "`xscore` to raw", "`xscore` to script"]
    )
    memory = Table("Peak memory of `xscore` over an `.npz` at 28 pixels", ["rows", "MB", "seconds"])
    click.echo(speed.head())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = read_npz(data).splits["test"].images[:]
        for (model, side), count in zip(CASES.items(), rows, strict=True):
            if case not in (None, model):
                continue
            place = folder / model
            place.mkdir()
            small = excerpt(data, place)
            if side != images.shape[1]:
                with np.load(small) as arrays:
                    larger: dict[str, Any] = dict(arrays.items())
                for key in (key for key in larger if key.endswith("images")):
                    larger[key] = enlarged(larger[key], side, len(larger[key]))
                np.savez(small, **larger)
            run = trained(model, 22, small, place)
            for line in rows_of(model, run, enlarged(images, side, count), place, rounds):
                speed.rows.append(line)
                click.echo(speed.line(line))
        if memory_rows:
            click.echo(memory.head())
        for count in memory_rows:
            peak, took = peak_memory(folder / "simplecnn" / "simplecnn.onnx", images, count, folder)
            memory.rows.append([f"{count:,}", f"{peak / 1e6:.0f}", f"{took:.0f}"])
            click.echo(memory.line(memory.rows[-1]))
    if json_file:
        Report.make([speed, memory] if memory_rows else [speed]).write(json_file)


if __name__ == "__main__":
    console.run(main)
