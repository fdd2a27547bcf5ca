"""`xeval` and `xscore`: figures and predictions of one exported file over a data set."""

import json
from pathlib import Path
from typing import Any, NoReturn

import click

from scoring.options import ScoringOptions
from xtrain import console
from xtrain.options import click_options

model_argument = click.argument("model", type=click.Path(path_type=Path), metavar="M.onnx")


@click.command(name="xeval", context_settings=console.SETTINGS)
@model_argument
@click.argument("data")
@click_options(ScoringOptions)
@click.option("--solution", type=click.Path(path_type=Path), help="ID,CLASS file with the labels that DATA holds back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@console.shared_options
def evaluate(model: Path, data: str, solution: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the exported model on a labelled split of DATA (a name or an .npz)."""
    from scoring.evaluate import evaluate

    evaluation = evaluate(model, ScoringOptions(**options), data, solution)
    click.echo(json.dumps(evaluation.as_json()) if as_json else evaluation.describe())


@click.command(name="xscore", context_settings=console.SETTINGS)
@model_argument
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV to write.")
@click_options(ScoringOptions)
@console.overwrite_option
@console.shared_options
def score(model: Path, data: str, output: Path, overwrite: bool, **options: Any) -> None:
    """Write ID,CLASS predictions for every image of a split of DATA, in order."""
    from scoring.score import score

    click.echo(score(model, ScoringOptions(**options), data, output, overwrite=overwrite).describe())


@click.group(name="scoring", context_settings=console.SETTINGS)
def scoring() -> None:
    """Figures and predictions of an exported model; the same as xeval and xscore."""


scoring.add_command(evaluate, "evaluate")
scoring.add_command(score, "score")


def main() -> NoReturn:
    """Entry point of `python -m scoring`."""
    console.run(scoring)


def evaluate_main() -> NoReturn:
    """Entry point of `xeval`."""
    console.run(evaluate)


def score_main() -> NoReturn:
    """Entry point of `xscore`."""
    console.run(score)
