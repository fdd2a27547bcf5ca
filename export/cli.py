"""`xexport RUN [RUN…] -o M.onnx`: one run as a model, several as their ensemble; `xexport show M.onnx`: its card."""

import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from xtrain import console


@click.command(
    name="xexport",
    context_settings=console.SETTINGS,
    epilog="xexport show M.onnx prints the card of an exported file.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN [RUN...]")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The .onnx to write.")
@click.option("--name", help="Name of the model [default: the file's stem].")
@click.option("--model-version", "version", default="1", show_default=True, help="Your version of it.")
@click.option(
    "--weights",
    metavar="W,W,…|auto",
    help="Shares of the members, or auto: greedy selection on the validation rows [default: equal].",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="Fit a temperature on the validation rows.",
)
@click.option("--tta", type=click.Choice(["dihedral"]), help="Average over the eight flips and quarter turns.")
@click.option("--explain", is_flag=True, help="Add an output that shows where the evidence for the top class lies.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the networks inside; pixels and probabilities stay what they are.",
)
@click.option("--data", help="Where the training data is now [default: where it was].")
@console.data_dir_option
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the file is compared with torch.",
)
@console.overwrite_option
@console.shared_options
def export(
    runs: tuple[Path, ...],
    output: Path,
    name: str | None,
    version: str,
    weights: str | None,
    calibrate: bool,
    tta: str | None,
    explain: bool,
    precision: str,
    data: str | None,
    data_dir: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Export runs to one self-contained ONNX file, compared with torch before it takes its name.

    Beside M.onnx come M.md, the model card to read, and M.onnx.sha256.
    """
    from export.write import Options, export_runs

    began = time.perf_counter()
    options = Options(name, version, weights, calibrate, tta is not None, explain, precision, device)
    done = export_runs(runs, output, options, data=data, data_dir=data_dir, overwrite=overwrite)
    low, high = done.metrics.accuracy_interval
    card = done.card

    def share(weight: float) -> str:
        return "" if card.weighting == "equal" else f", weight {weight:.2f}"

    what = " + ".join(
        f"{member['architecture']} (seed {member['seed']}{share(member['weight'])})" for member in card.members
    )
    for run in done.left_out:
        click.echo(f"run {run}, {runs[run - 1]}, got no weight and is left out")
    click.echo(f"{output}: {what}, {done.bytes / 1e6:.1f} MB, {time.perf_counter() - began:.1f} s")
    click.echo(
        f"onnxruntime agrees with torch on {done.parity.images} images to {done.parity.max_difference:.1e}; "
        f"validation accuracy {done.metrics.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}, "
        f"{card.data['name']}, {card.data['protocol']} protocol)"
    )
    if card.calibration:
        facts = card.calibration
        click.echo(
            f"temperature {facts['temperature']:.3f}: calibration error (ECE) {facts['ece_before']:.4f} before, "
            f"{facts['ece_after']:.4f} after, on the {facts['rows']} validation rows it was fitted on"
        )


@click.command(name="show", context_settings=console.SETTINGS)
@click.argument("model", type=click.Path(path_type=Path), metavar="M.onnx")
@console.shared_options
def show(model: Path) -> None:
    """Print the card of an exported file as JSON, once its digest is checked; needs neither torch nor onnx."""
    import json

    from serving.model import onnxfile
    from serving.model.card import read_card

    card = read_card(model)
    facts = {"sha256": onnxfile.verify(model), **json.loads(card.to_json())}
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def main() -> NoReturn:
    """Entry point of the console script; `show` is a word of its own, everything else are runs (a folder: ./show)."""
    if sys.argv[1:2] == ["show"]:
        del sys.argv[1]
        console.run(show)
    console.run(export)
