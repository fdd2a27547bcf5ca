"""`xtrain MODEL`: train one architecture on one data set and leave a run folder; `xtrain list`: what there is."""

import json
import sys
from typing import Any, NoReturn

import click

from training.config import RunOptions, TrainConfig
from training.models.registry import ARCHITECTURES, SWITCHES, find
from xtrain import console
from xtrain.options import Decorated, click_options


class ModelName(click.ParamType[str]):
    """A key of the registry; anything else is answered with the nearest names."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        return find(str(value)).name


def switch_options(command: Decorated) -> Decorated:
    """Add a flag for every switch of the registry."""
    for name, switch in reversed(SWITCHES.items()):
        owners = ", ".join(entry.name for entry in ARCHITECTURES.values() if name in entry.switches)
        text = f"{switch.help.removesuffix('.')}  [{owners}; default: {'on' if switch.default else 'off'}]"
        option = "--" + name.replace("_", "-")
        command = click.option(f"{option}/--no-{option[2:]}", name, default=None, help=text)(command)
    return command


@click.command(
    context_settings=console.SETTINGS,
    epilog=f"MODEL is one of: {', '.join(ARCHITECTURES)}. `xtrain list` shows models, recipes and data sets.",
)
@click.argument("model", type=ModelName())
@click.option("--data", help="Name of a data set, or path of an .npz  [default: pathmnist]")
@click_options(TrainConfig, unset=True)
@switch_options
@click_options(RunOptions, unset=True)
@click.option("--dry-run", is_flag=True, help="Print configuration, parameters and memory as JSON, and stop.")
@console.shared_options
def train(model: str, data: str | None, dry_run: bool, **options: Any) -> None:
    """Train MODEL and write its run folder: checkpoints, metrics, summary and pictures."""
    from training import run

    if dry_run:
        click.echo(json.dumps(run.dry_run(model, data, options), indent=2))
        return
    finished = run.train(model, data, options, progress=sys.stderr)
    if finished is not None:
        click.echo(finished.describe())


@click.command(name="list", context_settings=console.SETTINGS)
@click.argument("what", type=click.Choice(["models", "recipes", "data"]), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@console.shared_options
def list_command(what: str | None, as_json: bool) -> None:
    """Show the models with their parameters, the recipes with every value and its source, and the data sets."""
    from training.listing import as_text, listing

    shown = listing([what] if what else ["models", "recipes", "data"])
    click.echo(json.dumps(shown, indent=2) if as_json else as_text(shown))


def main() -> NoReturn:
    """Entry point of the console script; `list` is a word of its own, everything else is a model."""
    if [word for word in sys.argv[1:] if word != "--debug"][:1] == ["list"]:
        sys.argv.remove("list")
        console.run(list_command, "xtrain list")
    console.run(train, "xtrain")
