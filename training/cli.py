"""`xtrain MODEL`: train one architecture on one data set and leave a run folder."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from training import console
from training.config import AUGMENTS, OPTIMIZERS, SCHEDULERS, STATISTICS
from training.models import ARCHITECTURES, find
from training.splits import PROTOCOLS


class ModelName(click.ParamType[str]):
    """A key of the registry; anything else is answered with the nearest names."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        return find(str(value)).name


@click.command(
    context_settings=console.SETTINGS,
    epilog=f"MODEL is one of: {', '.join(ARCHITECTURES)}. Options not given come from the paper's recipe of the model.",
)
@click.argument("model", type=ModelName())
@click.option("--data", default="pathmnist", show_default=True, help="Name of a data set or path of an .npz.")
@console.data_dir_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Run folder [default: runs/MODEL-DATA-seedSEED].",
)
@click.option("--seed", type=click.IntRange(0), default=22, show_default=True, help="Seed of weights, order, noise.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="The file's own splits, or all rows pooled and permuted [default: the file's nature].",
)
@click.option("--split-seed", type=click.IntRange(0, 2**32 - 1), help="Seed of the division into splits [22].")
@click.option("--val-fraction", type=float, help="Validation share where the file has no such split [0.2].")
@click.option("--epochs", type=int, help="Epochs at the most.")
@click.option("--batch-size", type=int, help="Images a step.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="How weights move.")
@click.option("--scheduler", type=click.Choice(SCHEDULERS), help="How the learning rate moves.")
@click.option("--patience", type=int, help="Epochs without a better validation accuracy before stopping.")
@click.option("--image-size", type=int, help="Side in pixels the network sees.")
@click.option("--statistics", type=click.Choice(STATISTICS), help="Whose mean and std normalise.")
@click.option("--augment", type=click.Choice(AUGMENTS), help="Changes to training images.")
@click.option("--balance/--no-balance", default=None, help="Draw all classes alike.")
@click.option("--pretrained/--no-pretrained", default=None, help="Start from published ImageNet weights.")
@click.option("--batch-norm/--no-batch-norm", default=None, help="simplecnn: with or without.")
@click.option("--dropout/--no-dropout", default=None, help="simplecnn: with or without.")
@click.option("--cifar-stem/--no-cifar-stem", default=None, help="resnet*: 3x3 stem for native 28 px.")
@console.device_option
@console.overwrite_option
@console.shared_options
def train(
    model: str,
    data: str,
    data_dir: str | None,
    output: Path | None,
    seed: int,
    device: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Train MODEL and write its run folder: checkpoints, metrics, summary and pictures."""
    from training.run import train_run

    switches = {name: options.pop(name) for name in ("batch_norm", "dropout", "cifar_stem")}
    stem = Path(data).stem if data.endswith(".npz") else data
    summary = train_run(
        model,
        data,
        data_dir=data_dir,
        output=output or Path("runs") / f"{model}-{stem}-seed{seed}",
        device_name=device,
        overwrite=overwrite,
        stream=sys.stderr,
        seed=seed,
        options={name: value for name, value in switches.items() if value is not None},
        **options,
    )
    click.echo(summary)


def main() -> NoReturn:
    """Entry point of the console script."""
    console.run(train)
