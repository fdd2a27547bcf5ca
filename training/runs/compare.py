"""Run folders as a person compares them: one run described, several beside each other, all of them as a CSV.

Flows in: runs, read from their folders. Flows out: text, JSON values, a table. Nothing here loads torch unless a run
has no summary, whose figures are then in its checkpoint.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from training.runs.folder import Run
from xtrain.files import check_table, open_table
from xtrain.metrics import Metrics

FIGURES = ("accuracy", "low", "high", "f1", "auc", "loss", "ece")
PLACES = ("data_dir", "weights")  # where files lie says nothing of what was computed


def record(run: Run) -> dict[str, Any]:
    """Return settings, figures of the best epoch, data and environment of a run as plain JSON values."""
    summary = run.summary or {}
    best = run.best
    return {
        "run": str(run.folder),
        "finished": run.summary is not None,
        "settings": {**run.config, **run.config.get("switches", {})},
        "metrics": {"protocol": _protocol(run), "split": "val", "epoch": _best_epoch(run), **best.as_json()},
        "epochs": len(run.history),
        "seconds": round(sum(entry.get("seconds", 0.0) for entry in run.history), 1),
        "data": summary.get("data"),
        "digest": summary.get("digest"),
        "environment": summary.get("environment"),
    }


def describe(run: Run) -> str:
    """Return a run as text: what it is, its figures, its settings, its data, where it was trained."""
    values = record(run)
    config, best, data, environment = run.config, run.best, values["data"], values["environment"]
    head = f"{config['model']} on {Path(config['data']).name}, {_protocol(run)} protocol, seed {config['seed']}"
    end = (
        "" if run.summary is not None else f"  (unfinished: xtrain {config['model']} --resume {quote(str(run.folder))})"
    )
    lines = [head + end, f"validation, best epoch {_best_epoch(run)} of {len(run.history)}:"]
    lines += [f"  {_accuracy(best)}  F1 {best.f1:.4f}  AUC {_number(best.auc)}  ECE {_number(best.ece)}"]
    lines += ["settings:"]
    lines += [f"  {name:<17}{_shown(value)}" for name, value in _settings(run).items() if name not in ("model", "seed")]
    if data:
        rows = ", ".join(f"{count} {name}" for name, count in data["rows"].items())
        lines.append(f"data: {data['name']}, {rows}; md5 {data['md5']}; licence {data['licence']}")
    if environment:
        versions = environment["packages"]
        lines.append(
            f"trained in {values['seconds']:.0f} s on {environment['hardware']} with torch {versions.get('torch')}, "
            f"commit {environment['git_commit'] or 'unknown'}"
        )
    return "\n".join(lines)


def comparison(runs: Sequence[Run]) -> str:
    """Return a table of runs: the settings in which they differ, accuracy with its interval, F1, AUC, epochs, seconds.

    A last line warns where the runs were validated on different rows.
    """
    differing = differences(runs)
    settings = [_settings(run) for run in runs]
    head = ["run", *differing, "protocol", "validation accuracy (95 % interval)", "F1", "AUC", "epoch", "of", "seconds"]
    rows = [head]
    for run, values in zip(runs, settings, strict=True):
        best = run.best
        rows.append(
            [
                str(run.folder),
                *(_shown(values.get(name)) for name in differing),
                _protocol(run),
                _accuracy(best),
                f"{best.f1:.4f}",
                _number(best.auc),
                str(_best_epoch(run)),
                str(len(run.history)),
                f"{sum(entry.get('seconds', 0.0) for entry in run.history):.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    divisions = {(run.summary or {}).get("data", {}).get("split_digest") for run in runs}
    if len(divisions) > 1 or None in divisions:
        lines.append("the runs were validated on different rows, or it is not recorded: their figures do not compare")
    elif len(runs) > 1:
        lines.append("all validated on the same rows; overlapping intervals do not tell two runs apart")
    return "\n".join(lines)


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the names of the settings in which runs differ, in the order of the configuration."""
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    return [name for name in names if len({_shown(values.get(name)) for values in settings}) > 1]


def write_csv(path: Path, runs: Sequence[Run], overwrite: bool = False) -> None:
    """Write a row a run: folder, every setting, the figures of the best epoch.

    Raises:
        ConfigError, OutputError: as `check_table`; files of the runs are never replaced.
    """
    check_table(path, [file for run in runs for file in run.folder.iterdir()], overwrite)
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    with open_table(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", *names, "protocol", "split", "epoch", *FIGURES])
        for run, values in zip(runs, settings, strict=True):
            best = run.best
            low, high = best.accuracy_interval
            figures = (best.accuracy, low, high, best.f1, best.auc, best.loss, best.ece)
            shown = [_shown(values.get(name)) for name in names]
            writer.writerow([run.folder, *shown, _protocol(run), "val", _best_epoch(run), *figures])


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that decide what a run computes, switches among them; the protocol has its own column."""
    values = {**run.config, **run.config.get("switches", {})}
    return {name: value for name, value in values.items() if name not in ("switches", "protocol", *PLACES)}


def _protocol(run: Run) -> str:
    """Return the protocol; runs of older versions name it in the summary alone."""
    summary = run.summary or {}
    return str(run.config.get("protocol") or summary.get("data", {}).get("protocol") or "unknown")


def _best_epoch(run: Run) -> int:
    if run.summary is not None:
        return int(run.summary["metrics"]["epoch"])
    best = max(run.history, key=lambda entry: (entry["val_accuracy"], -entry["val_loss"]), default={"epoch": 0})
    return int(best["epoch"])


def _accuracy(metrics: Metrics) -> str:
    low, high = metrics.accuracy_interval
    return f"{metrics.accuracy:.4f} ({low:.4f} to {high:.4f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
