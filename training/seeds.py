"""One configuration with several seeds: a run each, and what they say together.

Flows in: options as for one run, and seeds. Flows out: `FOLDER/seed22`, … as single runs would have written them, and
`FOLDER/seeds.json` with mean and standard deviation. The same command again goes on: it keeps the runs that are
complete and resumes one that was interrupted.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from training.config import AUTO, TrainConfig, divide
from training.loop.device import choose_device, release
from training.loop.distributed import process_group
from training.run import Interrupted, dry_run, start, train
from training.runs import folder
from training.runs.folder import Run, RunFolder, open_run
from training.runs.resume import CompleteError
from xtrain.data import catalog
from xtrain.errors import ConfigError, OutputError, XtrainError
from xtrain.options import described

SEEDS = "seeds.json"
FIGURES = ("accuracy", "f1", "auc", "loss", "ece")
SHOWN = {"accuracy": "validation accuracy", "f1": "macro F1", "auc": "AUC"}


@dataclass(frozen=True)
class Seeds:
    """The complete runs of one configuration, in the order in which their seeds were named."""

    folder: Path
    runs: tuple[Run, ...]

    def figures(self) -> dict[str, dict[str, float]]:
        """Return mean and standard deviation (n - 1) over the best epochs, of the figures that all runs have."""
        figures = {}
        for name in FIGURES:
            values = [getattr(run.best, name) for run in self.runs]
            if all(value is not None and math.isfinite(value) for value in values):
                figures[name] = {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
        return figures

    def as_json(self) -> dict[str, Any]:
        """Return the content of `seeds.json`: the figures together, and those of each run's best epoch."""
        summaries = [run.summary or {} for run in self.runs]
        first = summaries[0]
        return {
            "model": first["model"],
            "seeds": [summary["seed"] for summary in summaries],
            "protocol": first["metrics"]["protocol"],
            "split": "val",
            "data": {name: first["data"][name] for name in ("name", "md5", "split_digest", "rows")},
            "figures": self.figures(),
            "runs": [
                {"run": run.folder.name, "epochs": summary["epochs"], "digest": summary["digest"], **summary["metrics"]}
                for run, summary in zip(self.runs, summaries, strict=True)
            ],
        }

    def describe(self) -> str:
        """Return a line a run, one for all of them, and the folder."""
        lines = [f"seed {run.config['seed']}: {run.describe().splitlines()[0]}" for run in self.runs]
        figures = self.figures()
        shown = ", ".join(
            f"{label} {figures[name]['mean']:.4f} ± {figures[name]['sd']:.4f}"
            for name, label in SHOWN.items()
            if name in figures
        )
        return "\n".join([*lines, f"{len(lines)} seeds, mean ± standard deviation: {shown}", str(self.folder)])


@dataclass(frozen=True)
class Member:
    """One of the runs to be: its seed, its folder, and whether it is new, to be resumed or complete."""

    seed: int
    path: Path
    state: str

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of this run alone."""
        if self.state == "new":
            return {**options, "seed": self.seed, "output": self.path}
        kept = {name: value for name, value in options.items() if name not in ("output", "overwrite", "config")}
        return {**kept, "seed": self.seed, "resume": self.path}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds with commas between them, such as `22,23,24`.

    Raises:
        ConfigError: not two or more different numbers.
    """
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}; give numbers with commas between them, such as 22,23,24") from None
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: one is named twice, which would say nothing of the spread")
    if len(seeds) < 2:
        raise ConfigError(f"--seeds {text}: a mean and its spread need two or more; use --seed {text} for one")
    return seeds


def train_seeds(
    model: str, data: str | None, seeds: Sequence[int], options: Mapping[str, Any], progress: TextIO | None = None
) -> Seeds | None:
    """Train one run a seed, one after another, and write what they say together.

    Args:
        model: a key of the registry.
        data: name or path of a data set; None is PathMNIST.
        seeds: different ones, two or more.
        options: as of `run.train`, without `seed` and `resume`; `output` is the folder of all.
        progress: as of `run.train`.

    Returns:
        All the runs; None on a process that is not the main one of several.

    Raises:
        XtrainError: any fault of the input, before anything is trained; or an interruption, which keeps what is done.
    """
    output, members = plan(model, data, seeds, options)
    finished = list[Run]()
    try:
        with process_group(choose_device(options.get("device") or "auto")) as process:
            for number, member in enumerate(members, 1):
                if progress is not None and process.is_main:
                    where = f"seed {member.seed}, {number} of {len(members)}"
                    progress.write(f"{where}: {member.state}, {member.path}\n")
                if member.state == "complete":
                    finished.append(open_run(member.path))
                elif run := train(model, data, member.options(options), progress):
                    finished.append(run)
                release()
    except Interrupted as error:
        raise Interrupted(f"{error}; for all seeds, repeat the command") from None
    except XtrainError as error:
        raise type(error)(f"seed {member.seed}: {error}") from error
    finally:
        with suppress(OSError):  # empty where the first of them left nothing
            output.rmdir()
    if not process.is_main:
        return None
    together = Seeds(output, tuple(finished))
    _check_same_data(together)
    folder.write_json(output / SEEDS, together.as_json())
    return together


def dry_run_seeds(model: str, data: str | None, seeds: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `train_seeds` would do: `run.dry_run` of the first run that is left, with the minutes of all.

    Raises:
        XtrainError: as `train_seeds`.
    """
    output, members = plan(model, data, seeds, options)
    left = [member for member in members if member.state != "complete"]
    member = (left or members)[0]
    shown = dry_run(model, data, {**options, "seed": member.seed, "output": member.path, "overwrite": True})
    minutes = shown["minutes_at_most"]
    return {
        **shown,
        "output": str(output),
        "seeds": {str(member.seed): member.state for member in members},
        "minutes_at_most": None if minutes is None else round(minutes * len(left), 2),
    }


def plan(
    model: str, data: str | None, seeds: Sequence[int], options: Mapping[str, Any]
) -> tuple[Path, tuple[Member, ...]]:
    """Return the folder of all runs, and each with what is left of it; nothing is written.

    Raises:
        XtrainError: an option of one run alone, a folder of other files, or a run in it with other settings.
    """
    for name in ("seed", "resume"):
        if options.get(name) is not None:
            reason = "the same command again goes on" if name == "resume" else "a run has one or the other"
            raise ConfigError(f"--seeds and --{name} exclude each other: {reason}; leave one out")
    run_options, settings = divide(options)
    output = run_options.output
    if output is None:
        config = start(model, data, run_options, {**settings, "seed": seeds[0]}).config
        name = Path(config.data).stem if catalog.is_path(config.data) else config.data
        output = Path("runs") / f"{model}-{name}-seeds"
    _check_folder(output)
    members = []
    for seed in seeds:
        path = output / f"seed{seed}"
        new = Member(seed, path, "new")
        begun = start(model, data, *divide(new.options(options)))
        if run_options.overwrite or not (path / folder.CONFIG).is_file():
            RunFolder(path, run_options.overwrite)
            members.append(new)
            continue
        _check_same_settings(open_run(path), begun.config)
        member = Member(seed, path, "resumed")
        try:
            start(model, data, *divide(member.options(options)))
        except CompleteError:
            member = Member(seed, path, "complete")
        members.append(member)
    return output, tuple(members)


def _check_folder(output: Path) -> None:
    """Refuse a folder of anything but runs of seeds."""
    try:
        names = sorted(entry.name for entry in output.iterdir()) if output.exists() else []
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror}; choose another -o") from error
    for name in names:
        seed = name.removeprefix("seed")
        if not name.startswith(".") and name != SEEDS and not (name != seed and seed.isdecimal()):
            raise OutputError(
                f"{output}: holds something else than runs of --seeds ({name}); name a new folder with -o"
            )


def _check_same_settings(run: Run, config: TrainConfig) -> None:
    """Refuse a run of an earlier command whose settings are not what this command would train with."""
    may_change = {name for name, (_, entry) in described(TrainConfig).items() if entry.resume}
    for name, value in config.as_json().items():
        stored = run.config.get(name)
        # Settled once data and device are known; AUTO is 0, which elsewhere is a value.
        later = value is None or value == "auto" or (name == "batch_size" and value == AUTO)
        if name not in may_change and not later and stored != value:
            raise ConfigError(
                f"{run.folder}: has {name} {stored}, and this command {value}; choose another -o or add --overwrite"
            )


def _check_same_data(together: Seeds) -> None:
    """Refuse to average over runs that were trained on different rows, of which some are an earlier command's."""
    digests = {
        (run.summary["data"]["md5"], run.summary["data"]["split_digest"])
        for run in together.runs
        if run.summary is not None
    }
    if len(digests) > 1:
        raise OutputError(
            f"{together.folder}: its runs were trained on different data, so there is no mean of them; "
            "choose another -o or add --overwrite"
        )
