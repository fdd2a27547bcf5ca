"""`xtrain MODEL`: train one architecture and leave a run folder; `xtrain list`, `show`, `compare`: what there is."""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from training.config import RunOptions, TrainConfig
from training.models.registry import ARCHITECTURES, SWITCHES, find
from xtrain import console
from xtrain.files import STANDARD_OUTPUT
from xtrain.options import Decorated, click_options
from xtrain.signals import ending_at_once


class ModelName(click.ParamType[str]):
    """A key of the registry; anything else is answered with the nearest names."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        return find(str(value)).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names, and the commands that are words of their own."""
        return [CompletionItem(name) for name in (*ARCHITECTURES, *COMMANDS) if name.startswith(incomplete)]


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
    epilog=f"MODEL is one of: {', '.join(ARCHITECTURES)}. `xtrain list` shows models, recipes and data sets, "
    "`xtrain show RUN` a run, `xtrain compare RUN RUN...` several.",
)
@click.argument("model", type=ModelName())
@click.option("--data", help="Name of a data set, path of an .npz, or folder of pictures  [default: pathmnist]")
@click_options(TrainConfig, unset=True)
@switch_options
@click_options(RunOptions, unset=True)
@click.option(
    "--seeds", metavar="N,N,…", help="Train a run a seed, in RUN/seedN, and print mean and standard deviation."
)
@click.option("--dry-run", is_flag=True, help="Print configuration, parameters, memory and minutes as JSON, and stop.")
@click.option("--quiet", is_flag=True, help="No progress; only the result, and errors.")
@console.shared_options
def train(model: str, data: str | None, seeds: str | None, dry_run: bool, quiet: bool, **options: Any) -> None:
    """Train MODEL and write its run folder: checkpoints, metrics, summary and pictures."""
    with ending_at_once():
        from training.run import dry_run as show
        from training.run import train as train_one
        from training.seeds import dry_run_seeds, parse_seeds, train_seeds

    several = None if seeds is None else parse_seeds(seeds)
    if dry_run:
        shown = show(model, data, options) if several is None else dry_run_seeds(model, data, several, options)
        click.echo(json.dumps(shown, indent=2))
        return
    progress = None if quiet else sys.stderr
    if several is None:
        result = train_one(model, data, options, progress)
        text = None if result is None else result.describe()
    else:
        together = train_seeds(model, data, several, options, progress)
        text = None if together is None else together.describe()
    if text is not None:
        click.echo(text)


@click.command(name="list", context_settings=console.SETTINGS)
@click.argument("what", type=click.Choice(["models", "recipes", "data"]), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@console.shared_options
def list_command(what: str | None, as_json: bool) -> None:
    """Show the models with their parameters, the recipes with every value and its source, and the data sets."""
    with ending_at_once():
        from training.listing import as_text, listing

    shown = listing([what] if what else ["models", "recipes", "data"])
    click.echo(json.dumps(shown, indent=2) if as_json else as_text(shown))


@click.command(name="show", context_settings=console.SETTINGS)
@click.argument("run", type=console.FilePath(), metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@console.shared_options
def show_command(run: Path, as_json: bool) -> None:
    """Show a run: its settings, its best epoch with the interval of its accuracy, its data and where it was trained."""
    from training.runs.compare import describe, record
    from training.runs.folder import open_run

    opened = open_run(run)
    click.echo(json.dumps(record(opened), indent=2) if as_json else describe(opened))


@click.command(name="compare", context_settings=console.SETTINGS)
@click.argument("runs", nargs=-1, required=True, type=console.FilePath(), metavar="RUN RUN...")
@click.option("--csv", "table", type=console.FilePath(), metavar="FILE", help="Write settings and figures as CSV too.")
@console.overwrite_option
@console.shared_options
def compare_command(runs: tuple[Path, ...], table: Path | None, overwrite: bool) -> None:
    """Compare runs: the settings in which they differ, and their figures with intervals."""
    from training.runs.compare import comparison, write_csv
    from training.runs.folder import open_run

    if overwrite and table is None:
        raise click.UsageError("--overwrite is for --csv; leave it out")
    opened = [open_run(run) for run in runs]
    if table is not None:
        write_csv(table, opened, overwrite)
    click.echo(comparison(opened), err=table is not None and str(table) in STANDARD_OUTPUT)


COMMANDS = {"list": list_command, "show": show_command, "compare": compare_command}


def main() -> NoReturn:
    """Entry point of the console script; a command's name is a word of its own, everything else is a model."""
    first = next((word for word in sys.argv[1:] if word != "--debug"), "")
    if first in COMMANDS:
        sys.argv.remove(first)
        console.run(COMMANDS[first], f"xtrain {first}")
    console.run(train, "xtrain")
