"""`xeval` and `xscore`: an exported file over a data set, as figures or predictions; `xpredict`: single pictures."""

import io
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from scoring.options import FigureOptions, PredictionOptions, ReadingOptions, ScoringOptions, Solution
from scoring.progress import progress_line
from serving.model.devices import DEVICES
from xtrain import console
from xtrain.console import FilePath
from xtrain.files import STANDARD_OUTPUT
from xtrain.options import click_options, described
from xtrain.signals import ending_at_once

model_argument = click.argument("model", type=FilePath(), metavar="M.onnx")
output_option = click.option(
    "-o",
    "--output",
    type=FilePath(),
    required=True,
    help=".csv, .jsonl or .parquet; - is CSV on the standard output.",
)


@click.command(name="xeval", context_settings=console.SETTINGS)
@model_argument
@click.argument("data")
@click_options(ScoringOptions)
@click.option("--solution", type=FilePath(), metavar="FILE", help="CSV with the labels that DATA holds back.")
@click.option("--id-column", help="Its column of row numbers, from 0  [default: ID]")
@click.option("--class-column", help="Its column of classes  [default: CLASS]")
@click_options(FigureOptions)
@click.option(
    "--compare",
    type=FilePath(),
    multiple=True,
    metavar="FILE",
    help="Compare with another .onnx, or with predictions as CSV of MedMNIST's evaluator; once for each seed.",
)
@click.option(
    "--also",
    type=FilePath(),
    multiple=True,
    metavar="M.onnx",
    help="Another seed of the model; each is compared with the next --compare.",
)
@click.option("--json", is_flag=True, help="One JSON object instead of text.")
@click.option("--csv", is_flag=True, help="A line a figure: figure,class,value,low,high.")
@click.option("--markdown", is_flag=True, help="Markdown tables.")
@click.option("--latex", is_flag=True, help="LaTeX tables, for the package booktabs.")
@click.option(
    "--report", type=FilePath(), metavar="FILE.html", help="Also write one HTML page: curves, mistakes, card."
)
@console.overwrite_option
@console.shared_options
def evaluate(model: Path, data: str, report: Path | None, overwrite: bool, **options: Any) -> None:
    """Measure the exported model on a labelled split of DATA (a name, an .npz or a folder of pictures)."""
    with ending_at_once():
        from scoring.evaluation.evaluate import evaluate
        from scoring.evaluation.formats import FORMATS
        from scoring.evaluation.rivals import Rivals
        from scoring.report.page import check_report, write_report
        from serving.model.predictor import Predictor

    forms = [name for name in FORMATS if options.pop(name, False)]
    if len(forms) > 1:
        raise click.UsageError(f"--{forms[0]} and --{forms[1]} are two formats; leave one of them out")
    if forms == ["csv"] and (options["sets"] is not None or options["compare"]):
        raise click.UsageError("--csv holds the figures of one model; leave --sets and --compare out, or use --json")
    rivals = Rivals(options.pop("compare"), options.pop("also"))
    figures = FigureOptions(**{name: options.pop(name) for name in described(FigureOptions)})
    path, columns = options.pop("solution"), {name: options.pop(name) for name in ("id_column", "class_column")}
    columns = {name: value for name, value in columns.items() if value is not None}
    if columns and path is None:
        raise click.UsageError("--id-column and --class-column are of a --solution; leave them out")
    solution = Solution(path=path, **columns) if path else None
    compared = rivals if rivals.compare or rivals.also else None
    if report is None and overwrite:
        raise click.UsageError("--overwrite is for --report; leave it out")
    if report is not None:
        check_report(report, [model, data, *rivals.compare, *rivals.also, *([path] if path else [])], overwrite)
    predictor = Predictor(model, options["device"])
    evaluation = evaluate(predictor, ScoringOptions(**options), data, solution, figures, compared)
    if report is not None:
        write_report(evaluation, predictor, console.spelled("xeval", click.get_current_context()), report)
    click.echo(FORMATS[forms[0]](evaluation) if forms else evaluation.describe())


@click.command(
    name="xscore",
    context_settings=console.SETTINGS,
    epilog="DATA is a data set's name, an .npz or .npy, a folder, a picture, a pattern such as 'tiles/**/*.png' or "
    "'tiles-{000..099}.tar', a .zip or .tar of pictures, a .csv or .parquet list of paths, or a .parquet of images. "
    "`xscore merge PARTS -o FILE` makes one file of the parts that --shard wrote.",
)
@model_argument
@click.argument("data")
@output_option
@click.option("--shard", metavar="K/N", help="Compute every N-th shard from the K-th on, into the folder OUTPUT.")
@click_options(ScoringOptions, without=("allow_overlap",))
@click_options(ReadingOptions)
@click_options(PredictionOptions)
@console.overwrite_option
@console.shared_options
def score(model: Path, data: str, output: Path, shard: str | None, overwrite: bool, **options: Any) -> None:
    """Write ID,CLASS predictions for every image of DATA, in order."""
    with ending_at_once():
        from scoring.jobs.job import Share
        from scoring.jobs.shards import score_share
        from scoring.score import score
        from scoring.sources.opening import ImageInput
        from scoring.writers.output import Destination

    given = click.get_current_context()
    reading = ReadingOptions(**{name: options.pop(name) for name in described(ReadingOptions)})
    written = PredictionOptions(**{name: options.pop(name) for name in described(PredictionOptions)})
    images = ImageInput(data, ScoringOptions(**options), reading)
    with progress_line() as progress:
        if shard is not None:
            for name in ("overwrite", *described(PredictionOptions)):
                if given.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                    word = f"--{name.replace('_', '-')}"
                    raise click.UsageError(f"{word} is for the merged file; give it to xscore merge")
            share = Share.parse(shard)
            done = score_share(model, images, output, share, progress)
            text, to_stderr = done.describe(), False
        else:
            destination = Destination(output, overwrite, written)
            text = score(model, images, destination, progress).describe()
            to_stderr = str(output) in STANDARD_OUTPUT
    click.echo(text, err=to_stderr)


@click.command(name="merge", context_settings=console.SETTINGS)
@click.argument("parts", type=FilePath(), metavar="PARTS")
@output_option
@click_options(PredictionOptions)
@console.overwrite_option
@console.shared_options
def merge_command(parts: Path, output: Path, overwrite: bool, **options: Any) -> None:
    """Make one file of the parts that xscore --shard wrote into the folder PARTS, in order."""
    with ending_at_once():
        from scoring.jobs.merge import merge
        from scoring.writers.output import Destination

    with progress_line() as progress:
        merged = merge(parts, Destination(output, overwrite, PredictionOptions(**options)), progress)
    click.echo(merged.describe(), err=str(output) in STANDARD_OUTPUT)


@click.command(name="xpredict", context_settings=console.SETTINGS)
@click.argument("model", metavar="M.onnx|URL")
@click.argument("files", nargs=-1, required=True, type=FilePath(), metavar="FILE...")
@click.option("--top", type=click.IntRange(1), help="Show that many classes  [default: 1; with --json all]")
@click.option("--heatmap", type=FilePath(), metavar="DIR", help="Write each picture under its heatmap into DIR.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where to compute.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a line a file, and the probabilities of all classes.")
@console.overwrite_option
@console.shared_options
def predict(model: str, files: tuple[Path, ...], heatmap: Path | None, device: str, **shown: Any) -> None:
    """Say what pictures show, from an exported model or a server (its token in XTRAIN_TOKEN).

    A file that cannot be read gets a line on stderr, and the exit code is then 1.
    """
    with ending_at_once():
        from scoring.predict import predict_files
        from scoring.table import CsvTable

    if shown["as_json"] and shown["as_csv"]:
        raise click.UsageError("--json and --csv are two formats; leave one of them out")
    if shown["as_csv"] and shown["top"]:
        raise click.UsageError("--csv shows all classes; leave --top out")
    if shown["overwrite"] and heatmap is None:
        raise click.UsageError("--overwrite is for --heatmap; leave it out")
    # Names of files in no encoding are written as they are.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    failed = 0
    table = CsvTable(sys.stdout) if shown["as_csv"] else None
    width = max(len(str(path)) for path in files)
    predictions = predict_files(model, files, device, heatmap, shown["overwrite"])
    with click.progressbar(predictions, length=len(files), file=sys.stderr, hidden=not _has_bar(files)) as bar:
        for prediction in bar:
            if prediction.error is not None:
                failed += 1
                click.echo(f"error: {prediction.error}", err=True)
            if table is not None:
                table.add(prediction)
            elif shown["as_json"]:
                click.echo(json.dumps(prediction.as_json(shown["top"]), ensure_ascii=False))
            elif prediction.error is None:
                click.echo(prediction.describe(shown["top"] or 1, width))
    if table is not None:
        table.close()
    if failed:
        sys.exit(1)


def _has_bar(files: tuple[Path, ...]) -> bool:
    """Return whether a bar tells more than the lines do: many files, whose lines go elsewhere than to the terminal."""
    return len(files) > 1 and sys.stderr.isatty() and not sys.stdout.isatty()


@click.group(name="scoring", context_settings=console.SETTINGS)
def scoring() -> None:
    """Figures and predictions of an exported model; the same as xeval, xscore and xpredict."""


scoring.add_command(evaluate, "evaluate")
scoring.add_command(score, "score")
scoring.add_command(merge_command, "merge")
scoring.add_command(predict, "predict")


def main() -> NoReturn:
    """Entry point of `python -m scoring`."""
    console.run(scoring)


def evaluate_main() -> NoReturn:
    """Entry point of `xeval`."""
    console.run(evaluate)


def score_main() -> NoReturn:
    """Entry point of `xscore`; `merge` is a word of its own, everything else is a model."""
    first = next((word for word in sys.argv[1:] if word != "--debug"), "")
    if first == "merge":
        sys.argv.remove(first)
        console.run(merge_command, "xscore merge")
    console.run(score)


def predict_main() -> NoReturn:
    """Entry point of `xpredict`."""
    console.run(predict)
