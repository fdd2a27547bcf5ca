"""One training run from end to end: options to data to network to loop to report.

`train` is what the command and `xtrain.train` call.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, TextIO

import numpy as np
import torch

from training.config import AUTO, RunOptions, TrainConfig, absolute, divide, read_config, refuse_idle, resolve
from training.loop.device import choose_device, choose_precision, seed_everything, set_up
from training.loop.distributed import Process, all_reduce_min, check_batch, process_group
from training.loop.estimate import Estimate, batch_advice, estimate, largest_batch, memory_advice
from training.loop.plan import class_counts
from training.loop.timing import seconds_an_epoch
from training.loop.trainer import Trainer
from training.models.classifier import Classifier
from training.models.pretrained import load_pretrained, load_weights_file
from training.models.registry import find, find_recipe
from training.prepare import Prepared, prepare
from training.runs import checkpoint, folder
from training.runs.checkpoint import Checkpoint
from training.runs.environment import describe_environment
from training.runs.folder import Run, RunFolder, open_run
from training.runs.history import Outcome, best_epoch
from training.runs.initial import load_run
from training.runs.loggers import LoggedRun, check_packages
from training.runs.logs import Logs
from training.runs.profile import Profile
from training.runs.progress import Progress, choose_progress, warn
from training.runs.recorder import Recorder
from training.runs.report import summarise, write_report
from training.runs.resume import best_metrics, check_same_data, load_interrupted, resumed_config
from xtrain.data import catalog
from xtrain.data.digests import row_digests
from xtrain.data.mapping import available_memory
from xtrain.errors import ConfigError, TrainingError, XtrainError

FEW_IMAGES = 16  # on each of several processes


class Interrupted(XtrainError):
    """The user stopped training; the epochs that were complete are kept."""


def dry_run(model: str, data: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run would do: the configuration with nothing left open, parameters, memory and time.

    Raises:
        XtrainError: as `train`.
    """
    run_options, settings = divide(options)
    check_packages(run_options.loggers)
    if run_options.resume is not None:
        raise ConfigError("--dry-run shows a new run; leave --resume out")
    started = start(model, data, run_options, settings)
    RunFolder(started.output, run_options.overwrite)
    process = Process(choose_device(run_options.device))
    ready = _prepared(started.config, run_options, process)
    memory = estimate(ready.config, ready.spec, ready.image_bytes)
    problem, seconds = _lack_of_memory(ready, memory, process), None
    if problem is None:
        seconds = seconds_an_epoch(Trainer(ready.config, Classifier(ready.spec), ready.splits, process))
    return {
        "config": ready.config.as_json(),
        "note": find_recipe(find(model), ready.config.recipe).note,
        "model": ready.spec.as_json(),
        "data": ready.record.as_json(),
        "output": str(started.output),
        "device": str(process.device),
        "parameters": memory.parameters,
        "memory_bytes": {**memory.as_json(), "total": memory.total},
        "problem": problem,
        "seconds_an_epoch": None if seconds is None else round(seconds, 3),
        "minutes_at_most": None if seconds is None else round(seconds * ready.config.epochs / 60, 2),
    }


def train(model: str, data: str | None, options: Mapping[str, Any], progress: TextIO | None = None) -> Run | None:
    """Train one model and write its run folder.

    Args:
        model: a key of the registry.
        data: name or path of a data set; None is PathMNIST, or what the resumed run was trained on.
        options: fields of `TrainConfig` and `RunOptions`, and switches of the architecture; None is the default.
        progress: where a bar or a line an epoch goes; None for nowhere.

    Returns:
        The run; None on a process that is not the main one of several.

    Raises:
        XtrainError: any fault of the input, before anything is written; or an interruption.
    """
    run_options, settings = divide(options)
    check_packages(run_options.loggers)
    started = start(model, data, run_options, settings)
    saved, output = started.saved, started.output
    run = RunFolder(output, run_options.overwrite, resume=saved is not None)
    complain = partial(warn, progress or sys.stderr)  # also with --quiet
    device = choose_device(run_options.device)
    set_up(device, started.config.deterministic)
    with process_group(device) as process:
        ready = _prepared(started.config, run_options, process)
        if saved:
            check_same_data(saved, ready.record, output)
        needed = _check_memory(ready, process)
        with run.reserved(needed) if process.is_main else nullcontext():
            logs = _logs(run, ready, run_options.loggers if process.is_main else (), complain)
            watchers: list[Progress] = [logs]
            if process.is_main and progress is not None:
                watchers.append(choose_progress(progress))
            if process.is_main and progress is not None:
                notes = _notes(started, ready, data, process)
                progress.write("".join(f"note: {note}\n" for note in notes))
            with memory_advice("for the network and its optimizer; use a smaller model or --device cpu"):
                trainer = _make_trainer(ready, process, run, watchers, saved)
            if run_options.profile and process.is_main:
                trainer.watchers.append(Profile(run / folder.TRACE, device, trainer.batches_left, complain))
            summary = None
            try:
                minutes = run_options.time_limit
                outcome = trainer.fit(None if minutes is None else 60 * minutes)
                if process.is_main:
                    summary = _report(run, ready, outcome)
            except KeyboardInterrupt:
                raise Interrupted(_interruption(trainer, output, model)) from None
            finally:
                logs.finish(summary)
    return open_run(output) if process.is_main else None


@dataclass(frozen=True)
class Started:
    """What the options say before the data is loaded: the configuration, what to resume from, the run folder's path."""

    config: TrainConfig
    saved: Checkpoint | None
    output: Path


def start(model: str, data: str | None, run_options: RunOptions, settings: Mapping[str, Any]) -> Started:
    """Settle what the options say without the data; nothing is written.

    Raises:
        XtrainError: options that contradict one another, or a run that cannot be resumed.
    """
    if run_options.resume is not None:
        for flag, given in (("-o", run_options.output), ("--overwrite", run_options.overwrite)):
            if given:
                raise ConfigError(f"--resume writes where it reads; leave {flag} out")
        if run_options.config is not None:
            raise ConfigError("--resume has its own configuration; leave --config out")
        saved = load_interrupted(run_options.resume, find(model).name)
        reported = (run_options.resume / folder.SUMMARY).is_file()
        data = absolute(data) if data is not None and catalog.is_path(data) else data
        config, saved = resumed_config(saved, data, settings, reported=reported)
        return Started(config, saved, run_options.resume)
    chosen = dict(settings)
    if run_options.config is not None:
        stored, chosen = read_config(run_options.config, find(model).name, data, settings)
        data = stored if data is None else data
    config = resolve(model, catalog.DEFAULT if data is None else data, **chosen)
    refuse_idle(config, settings)
    output = run_options.output
    if output is None:
        name = Path(config.data).stem if catalog.is_path(config.data) else config.data
        output = Path("runs") / f"{model}-{name}-seed{config.seed}"
        output = output if run_options.overwrite else folder.free_name(output)
    return Started(config, None, output)


def _prepared(config: TrainConfig, options: RunOptions, process: Process) -> Prepared:
    """Load the data and settle what depends on it and on the device: precision, and a batch size left to us."""
    if config.batch_size != AUTO:
        check_batch(config.batch_size, process.world_size)
    config = replace(config, precision=choose_precision(config.precision, process.device))
    ready = prepare(config, options.stream, process)
    if config.batch_size != AUTO:
        return ready
    free = available_memory()
    if process.device.type == "cuda":
        free = torch.cuda.mem_get_info(process.device)[0] - ready.image_bytes
    least = all_reduce_min(torch.tensor(free, device=process.device), process)  # all must choose the same
    rows = len(ready.splits.train) // process.world_size
    own = largest_batch(ready.config, ready.spec, int(least), rows)
    return replace(ready, config=replace(ready.config, batch_size=own * process.world_size))


def _notes(started: Started, ready: Prepared, data: str | None, process: Process) -> list[str]:
    """Return what a user should know before a new run, such as the recipe's note, or what was settled for them."""
    if started.saved is not None:
        return []
    batch, each = ready.config.batch_size, ready.config.batch_size // process.world_size
    few = (
        f"--batch-size {batch} leaves each of {process.world_size} processes {each} images, too few to keep a GPU busy "
        f"or for BatchNorm on its own; --batch-size {32 * process.world_size} and a higher --lr would use them"
    )
    chosen = f"--batch-size auto: {batch}; --lr is still {ready.config.lr:g}"
    recipe = find_recipe(find(ready.config.model), ready.config.recipe)
    notes = [*ready.notes, *([recipe.note] if recipe.note and data is None else [])]
    notes += [chosen] if started.config.batch_size == AUTO else []
    notes += [few] if process.world_size > 1 and each < FEW_IMAGES else []
    augment = recipe.values()["augment"]
    if started.config.augment is None and ready.config.augment == "none" and augment != "none":
        notes.append(
            f"handwritten digits are not augmented: a flip changes their class; --augment {augment} does it anyway"
        )
    return notes


def _lack_of_memory(ready: Prepared, memory: Estimate, process: Process) -> str | None:
    """Return what is wrong where the host's memory cannot hold a training step, else None.

    The system would end the process without a word; a GPU says itself that its memory is full.
    """
    needed, available = memory.total - memory.images, available_memory()
    if process.device.type != "cpu" or needed // process.world_size <= available:
        return None
    return (
        f"batches of {ready.config.batch_size} at {ready.input_size} pixels need about {needed / 1e9:.1f} GB and "
        f"{available / 1e9:.1f} GB are free; {batch_advice(ready.config)}"
    )


def _check_memory(ready: Prepared, process: Process) -> int:
    """Refuse a run that the memory of this machine cannot hold, and return the bytes that its checkpoints need.

    Raises:
        TrainingError: with what it needs.
    """
    memory = estimate(ready.config, ready.spec, ready.image_bytes)
    problem = _lack_of_memory(ready, memory, process)
    if problem is not None:
        raise TrainingError(problem)
    last, best = memory.weights + memory.optimizer, memory.weights
    return 2 * last + best  # the next one is written beside the last


def _logs(run: RunFolder, ready: Prepared, names: tuple[str, ...], complain: Callable[[str], None]) -> Logs:
    """Return the loggers of a run, which is called by its folder."""
    path, config = run.path.resolve(), ready.config.as_json()
    name = f"{path.parent.name}-{path.name}" if path.name == f"seed{ready.config.seed}" else path.name
    settings = {**config.pop("switches"), **config}
    return Logs(names, LoggedRun(name, settings, run.path, ready.spec.classes), complain)


def _make_trainer(
    ready: Prepared, process: Process, run: RunFolder, watchers: list[Progress], saved: Checkpoint | None
) -> Trainer:
    """Build the network with fresh, pretrained or saved weights, and the loop around it."""
    seed_everything(ready.config.seed)
    classifier = Classifier(ready.spec)
    if ready.config.init_from and saved is None:
        load_run(classifier, Path(ready.config.init_from))
    elif ready.config.pretrained and saved is None:
        if ready.config.weights:
            load_weights_file(classifier.network, ready.config.model, Path(ready.config.weights))
        else:
            load_pretrained(classifier.network, ready.config.model)
    recorder = None
    if process.is_main:
        environment = {**describe_environment(process.device).as_json(), "processes": process.world_size}
        digests = torch.from_numpy(row_digests(ready.splits.train.images).view(np.int64))
        recorder = Recorder(run, ready.config, ready.spec, ready.record, environment, digests)
    trainer = Trainer(ready.config, classifier, ready.splits, process, recorder, watchers)
    if saved:
        trainer.restore(saved, best_metrics(run, saved))
    return trainer


def _interruption(trainer: Trainer, output: Path, model: str) -> str:
    done = len(trainer.history)
    if not done:
        return "interrupted in epoch 1; no epoch was complete, so nothing was written"
    best = best_epoch(trainer.history, trainer.config.monitor)
    return (
        f"interrupted in epoch {done + 1}; epochs 1-{done} are kept in {output}, the best is {best}; "
        f"continue with: xtrain {model} --resume {quote(str(output))}"
    )


def _report(run: RunFolder, ready: Prepared, outcome: Outcome) -> dict[str, Any]:
    """Write the summary and the pictures; return the summary."""
    counts = class_counts(np.asarray(ready.splits.train.labels), len(ready.spec.classes))
    summary = summarise(checkpoint.load(run / folder.BEST), counts, outcome)
    write_report(run, summary, outcome.history)
    return summary
