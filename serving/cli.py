"""`xeval`, `xscore` and `xserve`: figures, predictions and the service over one exported file."""

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from xtrain import console
from xtrain.data.splits import PROTOCOLS, SPLITS

split_option = click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Which rows.",
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="How the file is divided [default: as in training, else the file's nature].",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes CUDA where it works.",
)


@click.command(context_settings=console.SETTINGS)
@click.argument("model", type=click.Path(path_type=Path), metavar="M.onnx")
@click.argument("data")
@console.data_dir_option
@split_option
@protocol_option
@click.option("--solution", type=click.Path(path_type=Path), help="ID,CLASS file with the labels that DATA holds back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@device_option
@console.shared_options
def evaluate(
    model: Path,
    data: str,
    data_dir: str | None,
    split: str,
    protocol: str | None,
    solution: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Score a labelled split of DATA (a name or an .npz) with the exported model."""
    from serving.model.predictor import Predictor
    from scoring.score import predict_split, read_solution, require_labels, select
    from xtrain.data import catalog
    from xtrain import metrics

    predictor = Predictor(model, device)
    card = predictor.card
    dataset = catalog.load(data, data_dir, classes=card.classes)
    selection = select(card, dataset, split, protocol)
    labels = (
        read_solution(solution, len(selection.split), len(card.classes))
        if solution
        else require_labels(selection, dataset)
    )
    figures = metrics.evaluate(labels, predict_split(predictor, selection))
    if as_json:
        facts = {"model": card.name, "data": dataset.name, "data_md5": dataset.md5}
        click.echo(json.dumps({**facts, "protocol": selection.protocol, "split": split, **figures.as_json()}))
        return
    click.echo(f"{card.name} on {dataset.name}, {split} split, {selection.protocol} protocol")
    click.echo(metrics.format_metrics(figures, card.classes))


@click.command(context_settings=console.SETTINGS)
@click.argument("model", type=click.Path(path_type=Path), metavar="M.onnx")
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV to write.")
@console.data_dir_option
@split_option
@protocol_option
@console.overwrite_option
@device_option
@console.shared_options
def score(
    model: Path,
    data: str,
    output: Path,
    data_dir: str | None,
    split: str,
    protocol: str | None,
    overwrite: bool,
    device: str,
) -> None:
    """Write ID,CLASS predictions for every image of a split of DATA, in order."""
    from serving.model.predictor import Predictor
    from scoring.score import predict_split, select
    from serving.model.submission import submission
    from xtrain.data import catalog
    from xtrain.files import open_atomic, refuse_existing

    refuse_existing(output, overwrite)
    predictor = Predictor(model, device)
    dataset = catalog.load(data, data_dir, classes=predictor.card.classes)
    selection = select(predictor.card, dataset, split, protocol)
    text = submission(predict_split(predictor, selection))
    with open_atomic(output, "w") as file:
        file.write(text)
    click.echo(f"{output}: {len(selection.split)} predictions, {split} split, {selection.protocol} protocol")


@click.command(context_settings=console.SETTINGS)
@click.argument("model", type=click.Path(path_type=Path), metavar="M.onnx")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on.")
@click.option("--max-batch", type=click.IntRange(1), default=64, show_default=True, help="Images of one run.")
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="How long an idle server waits for more images before it runs.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Images that may wait; more are refused with 429.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds until a request is given up with 504.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    show_default="one a core",
    help="Threads of a run on the CPU.",
)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    help="File of bearer tokens, one a line, of which every request needs one [default: none needed].",
)
@click.option(
    "--admin-tokens",
    "admins",
    type=click.Path(path_type=Path),
    help="File of the tokens that may POST /v1/model to swap in another file of the model's folder [default: nobody].",
)
@device_option
@console.shared_options
def serve(
    model: Path, host: str, port: int, tokens: Path | None, admins: Path | None, device: str, **limits: float
) -> None:
    """Serve the exported model over HTTP with BentoML until SIGTERM or Ctrl-C."""
    from serving.http.access import Tokens
    from serving.launch import launch
    from serving.model.predictor import Predictor

    for path in (tokens, admins):
        if path:
            Tokens.read(path)
    card = Predictor(
        model, device, int(limits["threads"])
    ).card  # every fault of the file shows here, in one line, before a server starts
    click.echo(f"{card.name} on http://{host}:{port} (Ctrl-C stops it)", err=True)
    sys.stderr.flush()
    launch(model, host, port, device, limits, tokens, admins)


def evaluate_main() -> NoReturn:
    """Entry point of `xeval`."""
    console.run(evaluate)


def score_main() -> NoReturn:
    """Entry point of `xscore`."""
    console.run(score)


def serve_main() -> NoReturn:
    """Entry point of `xserve`."""
    console.run(serve)
