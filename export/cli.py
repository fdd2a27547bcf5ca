"""`xexport RUN [RUN…] -o M.onnx`: one run as a model, several as their ensemble; `xexport show M.onnx`: its card."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from export.options import ExportOptions
from xtrain import console
from xtrain.console import FilePath
from xtrain.errors import ConfigError
from xtrain.options import click_options
from xtrain.signals import ending_at_once

if TYPE_CHECKING:
    from export.publish import Exported


@click.command(
    name="xexport",
    context_settings=console.SETTINGS,
    epilog="xexport show M.onnx prints the card of an exported file.",
)
@click.argument("runs", nargs=-1, required=True, type=FilePath(), metavar="RUN [RUN...]")
@click.option("-o", "--output", type=FilePath(), help="The .onnx to write; needed unless RUN is one.")
@click_options(ExportOptions)
@console.shared_options
def export(runs: tuple[Path, ...], output: Path | None, **options: Any) -> None:
    """Export runs to one self-contained ONNX file, compared with torch before it takes its name.

    Beside M.onnx come M.md, the model card to read, and M.onnx.sha256. An .onnx in place of the runs is a file exported
    before: --triton, --web and --sign take it.
    """
    if len(runs) == 1 and runs[0].suffix == ".onnx" and not runs[0].is_dir():
        package(runs[0], output, options)
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.", click.get_current_context())
    with ending_at_once():
        from export.export import export_runs

    began = time.perf_counter()
    exported = export_runs(runs, output, ExportOptions(**options))
    for index in exported.left_out:
        click.echo(f"run {index + 1}, {runs[index]}, got no weight and is left out")
    click.echo(_summary(exported, time.perf_counter() - began))


def package(model: Path, output: Path | None, options: dict[str, Any]) -> None:
    """Make something of an exported file, and print what."""
    with ending_at_once():
        from export.package import package_file

    if output is not None:
        raise ConfigError(f"-o {output}: {model} is exported already; leave -o out")
    for path in package_file(model, ExportOptions(**options)):
        click.echo(str(path))


def _summary(exported: "Exported", seconds: float) -> str:
    """Return what was exported, how it compares, and what the temperature changed, a line each."""
    card = exported.card
    low, high = exported.metrics.accuracy_interval
    members = []
    for member in card.members:
        weight = "" if card.weighting == "equal" else f", weight {member.weight:.2f}"
        members.append(f"{member.architecture} (seed {member.seed}{weight})")
    lines = [
        f"{exported.path}: {' + '.join(members)}, {exported.bytes / 1e6:.1f} MB, {seconds:.1f} s",
        f"onnxruntime agrees with torch on {card.parity.images} images to {card.parity.max_difference:.1e}; "
        f"validation accuracy {exported.metrics.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}, "
        f"{card.data.name}, {card.data.protocol} protocol)",
    ]
    if card.calibration:
        fit = card.calibration
        lines.append(
            f"temperature {fit.temperature:.3f}: calibration error (ECE) {fit.ece_before:.4f} before, "
            f"{fit.ece_after:.4f} after, on the {fit.rows} validation rows it was fitted on"
        )
    elif card.calibration_note:
        lines.append(card.calibration_note)
    return "\n".join(lines)


@click.command(name="show", context_settings=console.SETTINGS)
@click.argument("model", type=FilePath(), metavar="M.onnx")
@console.shared_options
def show(model: Path) -> None:
    """Print the card of an exported file as JSON, once its digest is checked; needs neither torch nor onnx.

    The pixels of the reference images and the digests of the training rows are left out.
    """
    import json

    from serving.model import onnxfile
    from serving.model.card import read_card

    card = read_card(model)
    click.echo(json.dumps({"sha256": onnxfile.verify(model), **card.summary()}, indent=2, ensure_ascii=False))


def main() -> NoReturn:
    """Entry point of the console script; `show` is a word of its own, everything else are runs (a folder: ./show)."""
    if sys.argv[1:2] == ["show"]:
        del sys.argv[1]
        console.run(show, "xexport show")
    console.run(export)
