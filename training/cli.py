"""`xtrain MODEL`: train one architecture on one data set and leave a run folder."""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from xtrain import console
from training.config import AUGMENTS, OPTIMIZERS, PRECISIONS, RECIPES, SCHEDULERS, STATISTICS
from training.models.registry import ARCHITECTURES, find
from xtrain.data.splits import PROTOCOLS


class ModelName(click.ParamType[str]):
    """A key of the registry; anything else is answered with the nearest names."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        return find(str(value)).name


@click.command(
    context_settings=console.SETTINGS,
    epilog=f"MODEL is one of: {', '.join(ARCHITECTURES)}. Options not given come from the recipe of the model.",
)
@click.argument("model", type=ModelName())
@click.option("--data", help="Name of a data set or path of an .npz  [default: pathmnist]")
@console.data_dir_option
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="RUN", help="Run folder.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run.")
@click.option(
    "--recipe", type=click.Choice(RECIPES), default="paper", show_default=True, help="Where defaults come from."
)
@click.option("--seed", type=click.IntRange(0), help="Seed of weights, order and noise  [default: 22]")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), help="The file's own splits, or all rows pooled and permuted."
)
@click.option("--split-seed", type=click.IntRange(0, 2**32 - 1), help="Seed of the division  [default: 22]")
@click.option("--val-fraction", type=float, help="Validation share where the file has no such split  [default: 0.2]")
@click.option("--epochs", type=int, help="Epochs at the most.")
@click.option("--batch-size", type=int, help="Images a step, over all processes.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="How weights move.")
@click.option("--scheduler", type=click.Choice(SCHEDULERS), help="How the learning rate moves.")
@click.option("--patience", type=int, help="Epochs without a better validation accuracy before stopping.")
@click.option("--plateau-patience", type=int, help="Epochs without a lower validation loss before the rate drops.")
@click.option("--image-size", type=int, help="Side in pixels the network sees.")
@click.option("--statistics", type=click.Choice(STATISTICS), help="Whose mean and std normalise.")
@click.option("--augment", type=click.Choice(AUGMENTS), help="Changes to training images.")
@click.option("--balance/--no-balance", default=None, help="Draw all classes alike.")
@click.option("--pretrained/--no-pretrained", default=None, help="Start from published ImageNet weights.")
@click.option("--weights", type=click.Path(), metavar="FILE", help="Pretrained weights fetched by other means.")
@click.option("--label-smoothing", type=float, help="Share of the target spread over all classes.")
@click.option("--ema", type=float, metavar="DECAY", help="Keep a moving average of the weights, such as 0.999.")
@click.option("--batch-norm/--no-batch-norm", default=None, help="simplecnn: with or without.")
@click.option("--dropout/--no-dropout", default=None, help="simplecnn: with or without.")
@click.option("--cifar-stem/--no-cifar-stem", default=None, help="resnet*: 3x3 stem for native 28 px.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the training step; auto is bf16 where native.")
@click.option("--compile", is_flag=True, default=None, help="Compile the network with torch.compile.")
@click.option("--deterministic", is_flag=True, default=None, help="The same bits on CUDA too, slower.")
@click.option(
    "--stream/--no-stream", default=None, help="Read images from disk as needed [default: if they do not fit]."
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events into RUN/tensorboard.")
@click.option("--dry-run", is_flag=True, help="Print configuration, parameters and memory as JSON, and stop.")
@console.device_option
@console.overwrite_option
@console.shared_options
def train(
    model: str,
    data: str | None,
    data_dir: str | None,
    output: Path | None,
    resume: Path | None,
    recipe: str,
    device: str,
    overwrite: bool,
    stream: bool | None,
    tensorboard: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train MODEL and write its run folder: checkpoints, metrics, summary and pictures."""
    from training import run

    switches = {name: options.pop(name) for name in ("batch_norm", "dropout", "cifar_stem")}
    options["options"] = {name: value for name, value in switches.items() if value is not None} or None
    if dry_run:
        click.echo(json.dumps(run.dry_run(model, data or "pathmnist", data_dir, device, stream, **options), indent=2))
        return
    lines = run.train_run(
        model,
        data,
        data_dir=data_dir,
        output=output,
        resume=resume,
        device_name=device,
        overwrite=overwrite,
        terminal=sys.stderr,
        stream=stream,
        tensorboard=tensorboard,
        **options,
    )
    if lines:
        click.echo(lines)


def main() -> NoReturn:
    """Entry point of the console script."""
    console.run(train)
