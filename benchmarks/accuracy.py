"""The figures of docs/results.md: trains, exports and evaluates, each case once, under its protocol.

    python -m benchmarks.accuracy --data-dir data

`data` holds the PathMNIST samples and MNIST. Nothing is chosen by a test figure: the runs are those of the recipes.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import xtrain
from benchmarks.results import Report, Table, json_option
from scoring.evaluation.evaluate import Evaluation
from xtrain import console

SAMPLE, KAGGLE = "pathmnist-sample.npz", "pathmnist-kaggle-sample.npz"


@dataclass(frozen=True)
class Case:
    """One exported file: which runs it is made of, how, and which test rows it is measured on."""

    title: str
    data: str
    model: str
    seeds: Sequence[int] = (22,)
    training: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    solution: str | None = None


_SMALL = {"image_size": 64, "epochs": 1, "pretrained": False}
FIGURES = (
    Case("`simplecnn`", "mnist", "simplecnn"),
    Case("`simplecnn-v1`", "mnist", "simplecnn-v1"),
    Case("`simplecnn`", SAMPLE, "simplecnn"),
    Case("`simplecnn --recipe paper-intended`", SAMPLE, "simplecnn", training={"recipe": "paper-intended"}),
    Case(
        "2 x `resnet152`, 1 epoch at 64 px from scratch",
        KAGGLE,
        "resnet152",
        (22, 23),
        _SMALL,
        solution="pathmnist-kaggle-sample-solution.csv",
    ),
)
_THREE = (22, 23, 24)
MEMBERS = (
    *(Case(f"seed {seed}", SAMPLE, "simplecnn", (seed,)) for seed in _THREE),
    Case("mean of the three", SAMPLE, "simplecnn", _THREE),
    Case("`--member-weights auto`", SAMPLE, "simplecnn", _THREE, export={"member_weights": "auto"}),
    Case("mean, `--tta dihedral`", SAMPLE, "simplecnn", _THREE, export={"tta": "dihedral"}),
    Case(
        "`--member-weights auto --tta dihedral`",
        SAMPLE,
        "simplecnn",
        _THREE,
        export={"member_weights": "auto", "tta": "dihedral"},
    ),
)


def measure(case: Case, data_dir: Path, folder: Path, epochs: int | None) -> tuple[Evaluation, Any]:
    """Train what is not trained yet, export, and return the figures on the test rows, and the card."""
    named = case.data == "mnist"
    data = case.data if named else str(data_dir / case.data)
    place: dict[str, Any] = {"data_dir": data_dir} if named else {}
    runs = []
    for seed in case.seeds:
        words = [f"{name}={value}" for name, value in case.training.items()]
        run = folder / "-".join([case.model, Path(case.data).stem, str(seed), *words])
        if not run.exists():
            options = {**case.training, **place, "seed": seed} | ({"epochs": epochs} if epochs else {})
            xtrain.train(case.model, data, progress=False, output=run, **options)
        runs.append(run)
    exported = xtrain.export(runs, folder / "model.onnx", overwrite=True, **place, **case.export)
    solution = data_dir / case.solution if case.solution else None
    return xtrain.evaluate(exported.path, data, solution=solution, **place), exported.card


def percent(value: float, interval: tuple[float, float], digits: int) -> str:
    """An accuracy in percent with its 95 % interval."""
    low, high = interval
    return f"{100 * value:.{digits}f} % ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def figures(case: Case, evaluation: Evaluation, card: Any) -> list[str]:
    """A row of the first table."""
    digits = 2 if case.data == "mnist" else 1
    test, validation = evaluation.metrics, card.metrics[0].metrics
    seeds = " and ".join(map(str, case.seeds))
    return [
        f"{case.title}, seed{'s' * (len(case.seeds) > 1)} {seeds}",
        f"{evaluation.data}, {evaluation.protocol}",
        percent(validation.accuracy, validation.accuracy_interval, digits),
        percent(test.accuracy, test.accuracy_interval, digits),
        "-" if test.auc is None else f"{test.auc:.3f}",
    ]


def members(case: Case, evaluation: Evaluation, card: Any) -> list[str]:
    """A row of the second table."""
    shares = ", ".join(f"{member.weight:.2f}" for member in card.members)
    test = evaluation.metrics
    return [
        case.title + (f" ({shares})" if "member_weights" in case.export else ""),
        evaluation.protocol,
        percent(test.accuracy, test.accuracy_interval, 1),
        f"{test.auc:.3f}",
        f"{test.ece:.3f}",
        f"{card.calibration.temperature:.2f}" if card.calibration else "none",
    ]


@click.command()
@click.option("--data-dir", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", help="Only cases of data whose name begins with this.")
@click.option("--epochs", type=click.IntRange(1), help="Other epochs than the recipe's, to try the command.")
@json_option
def main(data_dir: Path, only: str | None, epochs: int | None, json_file: Path | None) -> None:
    """Print both tables, a row as soon as it is known."""
    first = Table(
        "Accuracy with 95 % Wilson intervals; validation rows chose the epoch.",
        ["model", "data, protocol", "validation accuracy", "test accuracy", "test AUC"],
    )
    second = Table(
        "Three `simplecnn` on the PathMNIST sample: 302 test rows of the other clinical centre; weights and "
        "temperatures come from the 150 validation rows.",
        ["exported file", "protocol", "test accuracy", "test AUC", "test ECE", "temperature"],
    )
    with tempfile.TemporaryDirectory() as name:
        for table, cases, row in ((first, FIGURES, figures), (second, MEMBERS, members)):
            click.echo(table.head())
            for case in cases:
                if only is None or case.data.startswith(only):
                    table.rows.append(row(case, *measure(case, data_dir, Path(name), epochs)))
                    click.echo(table.line(table.rows[-1]))
                    sys.stdout.flush()
    if json_file:
        Report.make([first, second]).write(json_file)


if __name__ == "__main__":
    console.run(main)
