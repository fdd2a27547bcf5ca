"""Seconds until the validation accuracy reaches a target: the figure of a training loop and its recipe together.

Three sides train the same network on the same rows: `per-image`, the paper's recipe in the per-image pipeline of
`benchmarks.training`, `paper`, the same recipe in this project's loop, and `fast`, this project's recipe for it. Each
(side, seed) runs in a process of its own, one after another, validates after every epoch, and ends at the highest
target, or where its recipe ends. Nothing is written while it trains, on either side.

    python -m benchmarks.time_to_accuracy --data mnist --data-dir data --json docs/results/time-to-accuracy.json
    python -m benchmarks.time_to_accuracy --data data/pathmnist-sample.npz --json docs/results/time-to-accuracy.json

Targets are 99.4 % and 99.55 % for handwritten digits; elsewhere the best accuracy of `paper`, the median over the
seeds. Seconds count from the start of the first epoch and include validation; start-up, imports and loading the data,
is a column of its own. The file of `--json` is written after every run and read by the next command: a run
that it holds is not repeated, so that an interrupted command loses one run, and data sets can be added up in one file.
"""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.results import Report, Table, json_option, machine
from benchmarks.training import FORK, PaperRows, PaperTraining, paper_training, repeated
from training.config import TrainConfig, resolve
from training.loop.device import choose_device, choose_precision, seed_everything, set_up
from training.loop.distributed import Process
from training.loop.schedule import EarlyStopping, Schedule
from training.loop.trainer import Trainer
from training.models.classifier import Classifier
from training.prepare import Prepared, prepare
from training.runs.environment import git_commit
from xtrain import console
from xtrain.data.catalog import is_handwritten, is_path
from xtrain.data.statistics import channel_statistics
from xtrain.errors import ConfigError, TrainingError, XtrainError
from xtrain.metrics import evaluate

RECIPES = {"per-image": "paper", "paper": "paper", "fast": "fast"}  # of each side
DIGIT_TARGETS = (0.994, 0.9955)
PROBE_ROWS = 2048  # trained on with each number of workers, to choose the faster one
NEVER = 2.0  # an accuracy that no run reaches


@dataclass(frozen=True)
class Point:
    """One epoch: seconds from the start of the first one to the end of this one's validation."""

    epoch: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """One side with one seed, as far as it went.

    `stop` is the accuracy that it was to end at; `start_up` are the seconds before the first epoch; `ended` is
    `target`, or `recipe` where its epochs or its patience were used up; `protocol` divided the data.
    """

    data: str
    side: str
    seed: int
    stop: float
    config: dict[str, Any]
    start_up: float
    curve: tuple[Point, ...]
    ended: str
    workers: int = 0
    commit: str | None = None
    protocol: str = ""

    @property
    def best(self) -> float:
        """The best validation accuracy."""
        return max(point.accuracy for point in self.curve)

    def reached(self, target: float) -> Point | None:
        """Return the first epoch with at least this accuracy."""
        return next((point for point in self.curve if point.accuracy >= target), None)

    def replaces(self, other: "Run") -> bool:
        """Return whether both are the same case."""
        return (self.data, self.side, self.seed) == (other.data, other.side, other.seed)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Run":
        """Read what `asdict` gave."""
        return cls(**{**values, "curve": tuple(Point(**point) for point in values["curve"])})


@dataclass(frozen=True)
class Started:
    """What a process sends when its first epoch begins."""

    protocol: str


@dataclass(frozen=True)
class Job:
    """What a process is to train: with which recipe, from which data, until which accuracy, on how many rows."""

    side: str
    config: TrainConfig
    stop: float
    device: str
    rows: int | None = None
    workers: int = 0

    def prepared(self) -> Prepared:
        """Load the data; precision and augmentation settled."""
        device = choose_device(self.device)
        config = replace(self.config, precision=choose_precision(self.config.precision, device))
        ready = prepare(config)
        if self.rows is None:
            return ready
        splits = ready.splits
        train, val = (repeated(split, min(self.rows, len(split))) for split in (splits.train, splits.val))
        return replace(ready, splits=replace(splits, train=train, val=val))


class TargetReached(Exception):
    """The run has the accuracy that it was to end at."""


class Watch:
    """A watcher of the trainer that hands every epoch on, and ends the run at its target."""

    def __init__(self, stop: float, tell: Callable[[Point], None]) -> None:
        self.stop, self.tell, self.seconds = stop, tell, 0.0

    def start(self, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""

    def step(self) -> None:
        """See `Progress`."""

    def epoch(self, entry: dict[str, Any], metrics: Any, best: bool) -> None:
        """Add up the seconds of the epochs; the trainer calls this during the next one."""
        self.seconds += entry["seconds"]
        self.tell(Point(entry["epoch"], metrics.accuracy, self.seconds))
        if metrics.accuracy >= self.stop:
            raise TargetReached

    def close(self) -> None:
        """See `Progress`."""


def train_ours(ready: Prepared, job: Job, begin: Callable[[], None], tell: Callable[[Point], None]) -> None:
    """Train in this project's loop, set up as `training.run` does."""
    device = choose_device(job.device)
    set_up(device, ready.config.deterministic)
    seed_everything(ready.config.seed)
    watch = Watch(job.stop, tell)
    trainer = Trainer(ready.config, Classifier(ready.spec), ready.splits, Process(device), watchers=[watch])
    begin()
    trainer.fit()


def train_per_image(ready: Prepared, job: Job, begin: Callable[[], None], tell: Callable[[Point], None]) -> None:
    """Train in the paper's pipeline, with the recipe's schedule and early stopping."""
    training = paper_training(ready, choose_device(job.device), job.workers)
    schedule = Schedule(ready.config, training.optimizer, len(training.loader))
    stopping = EarlyStopping(ready.config.patience, ready.config.monitor)
    assert ready.splits.val.labels is not None
    labels, rows = ready.splits.val.labels, validation_loader(ready, job)
    begin()
    began = time.perf_counter()
    for epoch in range(1, ready.config.epochs + 1):
        training.epoch()
        metrics = evaluate(labels, probabilities(training, rows))
        tell(Point(epoch, metrics.accuracy, time.perf_counter() - began))
        schedule.after_epoch(metrics.loss)
        stopping.update(epoch, metrics)
        if metrics.accuracy >= job.stop:
            raise TargetReached
        if stopping.exhausted:
            return


def validation_loader(ready: Prepared, job: Job) -> DataLoader[tuple[torch.Tensor, int]]:
    """Make the DataLoader of the validation rows, in order and not augmented."""
    statistics_ = channel_statistics(ready.splits.train.images)
    return DataLoader(
        PaperRows(ready.splits.val, ready.spec.image_size, statistics_, "none"),
        batch_size=ready.config.batch_size,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        multiprocessing_context=FORK if job.workers else None,
    )


@torch.no_grad()
def probabilities(training: PaperTraining, rows: DataLoader[tuple[torch.Tensor, int]]) -> np.ndarray[Any, Any]:
    """Return the probabilities (N, classes) float32 of every row, in order."""
    training.network.eval()
    parts = [training.network(images.to(training.device)).softmax(dim=1).cpu() for images, _ in rows]
    return torch.cat(parts).numpy()


def fastest_workers(connection: Connection, job: Job) -> None:
    """Send the number of workers, 0 or 2, with which the per-image pipeline trains on some rows in less time."""
    try:
        ready = job.prepared()
    except XtrainError as error:
        connection.send(error)
        return
    few = repeated(ready.splits.train, min(PROBE_ROWS, len(ready.splits.train)))
    ready = replace(ready, splits=replace(ready.splits, train=few))
    seconds = {}
    for workers in (0, 2):
        training = paper_training(ready, choose_device(job.device), workers)
        training.epoch()  # starts the workers
        began = time.perf_counter()
        training.epoch()
        seconds[workers] = time.perf_counter() - began
    connection.send(min(seconds, key=lambda workers: seconds[workers]))


def work(connection: Connection, job: Job) -> None:
    """Train one run, in a process of its own; send the start of the first epoch, every epoch, and the end."""
    try:
        ready = job.prepared()
    except XtrainError as error:  # for the one line of the process that waits
        connection.send(error)
        return
    train = train_per_image if job.side == "per-image" else train_ours
    try:
        train(ready, job, lambda: connection.send(Started(ready.record.protocol)), connection.send)
    except TargetReached:
        connection.send("target")
    else:
        connection.send("recipe")


def messages(target: Callable[[Connection, Job], None], job: Job) -> Iterator[Any]:
    """Start a process and yield what it sends.

    Raises:
        XtrainError: it could not load the data, or ended with an error, which it has printed.
    """
    context = multiprocessing.get_context("spawn")
    connection, there = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(there, job))
    process.start()
    there.close()
    try:
        with contextlib.suppress(EOFError):
            while True:
                message = connection.recv()
                if isinstance(message, XtrainError):
                    raise message
                yield message
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    if process.exitcode:
        raise TrainingError(f"the process of {job.side}, seed {job.config.seed}, ended with {process.exitcode}")


def measure(job: Job, name: str) -> Run:
    """Run one side with one seed and tell of every epoch on stderr."""
    if job.side == "per-image" and job.workers < 0:
        (workers,) = messages(fastest_workers, job)
        job = replace(job, workers=workers)
    began, start_up, protocol, ended, curve = time.perf_counter(), 0.0, "", "", list[Point]()
    for message in messages(work, job):
        if isinstance(message, Started):
            start_up, protocol = time.perf_counter() - began, message.protocol
        elif isinstance(message, Point):
            curve.append(message)
            shown = f"epoch {message.epoch}  val accuracy {message.accuracy:.4f}  {message.seconds:.1f} s"
            click.echo(f"{job.side}, seed {job.config.seed}: {shown}", err=True)
        else:
            ended = message
    return Run(
        data=name,
        side=job.side,
        seed=job.config.seed,
        stop=job.stop,
        config=identity(job),
        start_up=start_up,
        curve=tuple(curve),
        ended=ended,
        workers=max(0, job.workers),
        commit=git_commit(),
        protocol=protocol,
    )


def identity(job: Job) -> dict[str, Any]:
    """Return what makes two runs the same: the configuration without this machine's folders, the rows, the machine."""
    values = {key: value for key, value in job.config.as_json().items() if key not in ("data", "data_dir")}
    device = choose_device(job.device)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    return {**values, "rows": job.rows, "hardware": hardware}


class Store:
    """The runs so far, kept in the file of `--json`, which is written after each."""

    def __init__(self, path: Path | None) -> None:
        """Read the runs that the file holds.

        Raises:
            ConfigError: it is not a file of this command, whose content would be lost.
        """
        self.path, self.runs = path, list[Run]()
        if path is None or not path.exists():
            return
        try:
            self.runs = [Run.from_json(values) for values in Report.read(path).runs]
        except (ValueError, KeyError, TypeError, AttributeError):
            self.runs = []
        if not self.runs:
            raise ConfigError(f"--json {path}: a file that this command did not write; name another")

    def find(self, name: str, job: Job) -> Run | None:
        """Return the finished run of the same configuration that went as far as this one is to go, if any."""
        for run in self.runs:
            same = (run.data, run.side, run.config) == (name, job.side, identity(job))
            if same and (run.ended == "recipe" or run.stop >= job.stop or run.best >= job.stop):
                return run
        return None

    def add(self, run: Run) -> None:
        """Keep a run in place of an earlier one of its case, and write the file."""
        self.runs = [*(other for other in self.runs if not run.replaces(other)), run]
        self.write()

    def write(self) -> None:
        """Write the tables of all data sets, and the runs that they come from."""
        if self.path is not None:
            report = Report.make(
                tables(self.runs), " and ".join(dict.fromkeys(r.config["hardware"] for r in self.runs))
            )
            replace(report, runs=[asdict(run) for run in self.runs]).write(self.path)


def targets(name: str, runs: Sequence[Run]) -> list[float]:
    """Return the accuracies that the runs of one data set are held against; none while they are not known yet."""
    if is_handwritten(name):
        return list(DIGIT_TARGETS)
    best = [run.best for run in runs if run.side == "paper"]
    return [statistics.median(best)] if best else []


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return the table of each data set."""
    names = dict.fromkeys(run.data for run in runs)
    return [table(name, [run for run in runs if run.data == name]) for name in names]


def table(name: str, runs: Sequence[Run]) -> Table:
    """Return the table of one data set: a row for each target and side."""
    caption = (
        f"Seconds until the validation accuracy of `{runs[0].config['model']}` on {name} is first reached, from the "
        f"start of the first epoch and with validation; medians (lowest to highest) over the seeds."
    )
    columns = ["target", "side", "seeds", "epochs", "seconds", "times faster than per-image", "start-up, s", "best"]
    made = Table(caption, columns)
    for target in targets(name, runs):
        for side in RECIPES:
            those = [run for run in runs if run.side == side]
            if those:
                base = [run for run in runs if run.side == "per-image"]
                text = ", ".join(filter(None, [f"{100 * target:.2f} %", runs[0].protocol]))
                made.rows.append([text, f"`{side}`", *cells(target, those, base)])
    return made


def cells(target: float, runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    """Return the cells of one side at one target; runs that did not get there are counted and left out.

    Where the per-image run of a seed did not get there, its whole time gives a bound: it would have taken longer.
    """
    points = [point for run in runs if (point := run.reached(target))]
    missed = f"{len(runs) - len(points)} of {len(runs)} not reached" if len(points) < len(runs) else ""
    pairs = [
        (ours, other) for run in runs for other in base if other.seed == run.seed and (ours := run.reached(target))
    ]
    ratios = [(other.reached(target) or other.curve[-1]).seconds / ours.seconds for ours, other in pairs]
    is_bound = any(other.reached(target) is None for _, other in pairs)
    return [
        " ".join(str(run.seed) for run in runs),
        spread([point.epoch for point in points], "{:.0f}"),
        ", ".join(filter(None, [spread([point.seconds for point in points], "{:.1f}").strip("-"), missed])),
        f"more than {spread(ratios, '{:.1f}')}" if is_bound else spread(ratios, "{:.1f}"),
        spread([run.start_up for run in runs], "{:.1f}"),
        spread([100 * run.best for run in runs], "{:.2f} %"),
    ]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median with the range, such as `4.0 (3.5 to 4.2)`."""
    if not values:
        return "-"
    shown = form.format(statistics.median(values))
    return shown if len(values) == 1 else f"{shown} ({form.format(min(values))} to {form.format(max(values))})"


def jobs(data: str, sides: Iterable[str], seeds: Iterable[int], options: dict[str, Any]) -> list[Job]:
    """Return the runs, seed after seed; `paper` first where its best accuracy is the target of the others."""
    order = list(RECIPES) if is_handwritten(data) else ["paper", "per-image", "fast"]
    chosen = {name: options[name] for name in ("epochs", "data_dir") if options[name] is not None}
    rest = {name: options[name] for name in ("device", "rows")}
    workers = -1 if options["workers"] is None else options["workers"]
    cases = [(side, seed) for seed in seeds for side in order if side in sides]
    if not is_handwritten(data):  # the target is a median over the seeds
        cases.sort(key=lambda case: case[0] != "paper")
    made = []
    for side, seed in cases:
        recipe = RECIPES[side]
        config = resolve(options["model"], data, recipe=recipe, seed=seed, **chosen)
        config = replace(config, precision="fp32") if side == "per-image" else config
        made.append(Job(side, config, NEVER, workers=workers if side == "per-image" else 0, **rest))
    return made


def listed(kind: Callable[[str], Any], allowed: Sequence[str] = ()) -> Callable[..., list[Any]]:
    """Return a click callback that reads a list with commas."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[Any]:
        try:
            values = [kind(word) for word in text.split(",")]
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if allowed and not set(values) <= set(allowed):
            raise click.BadParameter(f"choose from {', '.join(allowed)}")
        return values

    return read


@click.command()
@click.option("--data", required=True, help="A named data set, such as mnist, or the path of an .npz.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of named data sets.")
@click.option("--model", default="simplecnn", show_default=True, help="A model with the recipes paper and fast.")
@click.option("--seeds", default="22,23,24", show_default=True, callback=listed(int), help="One run a side each.")
@click.option(
    "--sides",
    default=",".join(RECIPES),
    show_default=True,
    callback=listed(str, tuple(RECIPES)),
    help="Which to train.",
)
@click.option("--workers", type=click.IntRange(0), help="Of the per-image side [default: 0 or 2, what is faster].")
@click.option("--rows", type=click.IntRange(4), help="Only so many rows of each split, to try the command.")
@click.option("--epochs", type=click.IntRange(1), help="Other epochs than the recipe's, to try the command.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def main(data: str, seeds: list[int], sides: list[str], json_file: Path | None, **options: Any) -> None:
    """Train each side with each seed and print seconds to accuracy."""
    store, name = Store(json_file), Path(data).name if is_path(data) else data
    options["data_dir"] = str(options["data_dir"]) if options["data_dir"] else None
    for job in jobs(data, sides, seeds, options):
        known = targets(name, [run for run in store.runs if run.data == name])
        # `paper` runs to its end where its best accuracy is the target.
        stop = NEVER if job.side == "paper" and not is_handwritten(data) else max(known, default=NEVER)
        job = replace(job, stop=stop)
        if store.find(name, job) is None:
            store.add(measure(job, name))
        else:
            click.echo(f"{job.side}, seed {job.config.seed}: taken from {json_file}", err=True)
    runs = [run for run in store.runs if run.data == name]
    for made in tables(runs):
        click.echo(made.markdown())
    if not targets(name, runs):
        click.echo("no target yet: it is the best accuracy of the side paper; add it to --sides", err=True)
    store.write()


if __name__ == "__main__":
    console.run(main)
