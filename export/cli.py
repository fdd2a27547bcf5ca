"""`xexport RUN [RUN…] -o M.onnx`: one run as a model, several as their averaging ensemble."""

import time
from pathlib import Path
from typing import NoReturn

import click

from training import console


@click.command(context_settings=console.SETTINGS)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN [RUN...]")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The .onnx to write.")
@click.option("--name", help="Name of the model [default: the file's stem].")
@click.option("--model-version", "version", default="1", show_default=True, help="Your version of it.")
@click.option("--data", help="Where the training data is now [default: where it was].")
@console.data_dir_option
@console.overwrite_option
@console.shared_options
def export(
    runs: tuple[Path, ...],
    output: Path,
    name: str | None,
    version: str,
    data: str | None,
    data_dir: str | None,
    overwrite: bool,
) -> None:
    """Export runs to one self-contained ONNX file, compared with torch before it takes its name."""
    from export.write import export_runs

    began = time.perf_counter()
    done = export_runs(runs, output, name=name, version=version, data=data, data_dir=data_dir, overwrite=overwrite)
    low, high = done.metrics.accuracy_interval
    what = " + ".join(f"{member['architecture']} (seed {member['seed']})" for member in done.card.members)
    click.echo(f"{output}: {what}, {done.bytes / 1e6:.1f} MB, {time.perf_counter() - began:.1f} s")
    click.echo(
        f"onnxruntime agrees with torch on {done.parity.images} images to {done.parity.max_difference:.1e}; "
        f"validation accuracy {done.metrics.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}, "
        f"{done.card.data['name']}, {done.card.data['protocol']} protocol)"
    )


def main() -> NoReturn:
    """Entry point of the console script."""
    console.run(export)
