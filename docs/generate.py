"""Writes the parts of the pages that come from the code and from the benchmarks: `python docs/generate.py`.

A part stands between `<!-- begin NAME ARGUMENTS -->` and `<!-- end -->`; a test fails where a page is not what this
writes. Help texts come from the commands, options from their dataclasses, statuses and routes from the server,
figures from the JSON files in docs/results that the benchmarks write.
"""

import re
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.results import Report
from export.options import ExportOptions
from scoring.figures.totals import TOTALS
from scoring.options import FigureOptions, PredictionOptions, ReadingOptions, ScoringOptions
from serving.http.errors import CODES
from serving.http.openapi import WHEN
from serving.http.routes import OPERATIONS
from serving.settings import Settings
from training.config import RunOptions, TrainConfig
from training.models.registry import ARCHITECTURES, SWITCHES
from xtrain.data import catalog
from xtrain.options import table

DOCS = Path(__file__).resolve().parent
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
PART = re.compile(r"(<!-- begin ([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
WIDTH = 100


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def help_of(*words: str) -> str:
    """Return the help text of a command, as the terminal shows it."""
    import export.cli
    import scoring.cli
    import serving.cli
    import training.cli

    commands: dict[str, click.Command] = {
        "xtrain": training.cli.train,
        **{f"xtrain {name}": command for name, command in training.cli.COMMANDS.items()},
        "xexport": export.cli.export,
        "xexport show": export.cli.show,
        "xeval": scoring.cli.evaluate,
        "xscore": scoring.cli.score,
        "xscore merge": scoring.cli.merge_command,
        "xpredict": scoring.cli.predict,
        "xserve": serving.cli.serve,
    }
    name = " ".join(words)
    context = click.Context(commands[name], info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    return f"```text\n{commands[name].get_help(context)}\n```"


def options(name: str) -> str:
    """Return the table of the options of a dataclass."""
    several = (
        TrainConfig,
        RunOptions,
        ExportOptions,
        ScoringOptions,
        FigureOptions,
        ReadingOptions,
        PredictionOptions,
        Settings,
    )
    classes = {each.__name__: each for each in several}
    return table(classes[name], without=("model",) if name == "Settings" else ())


def switches() -> str:
    """Return the table of the networks' switches."""
    rows = []
    for name, switch in SWITCHES.items():
        models = ", ".join(entry.name for entry in ARCHITECTURES.values() if name in entry.switches)
        meaning = f"{switch.help.removesuffix('.')} (default {'on' if switch.default else 'off'})"
        rows.append([f"`--[no-]{name.replace('_', '-')}`", models, meaning])
    return markdown_table(["option", "models", "meaning"], rows)


def recipes() -> str:
    """Return the table of the models' first recipes."""
    rows = []
    for entry in ARCHITECTURES.values():
        values = entry.recipes[0].values()
        size = values["image_size"] or "the data's"
        crop = f", crop {values['crop']}" if values.get("crop") else ""
        others = ", ".join(f"`{recipe.name}`" for recipe in entry.recipes[1:])
        rows.append(
            [
                f"`{entry.name}`",
                values["optimizer"],
                f"{values['lr']:g}",
                str(values["batch_size"]),
                str(values["epochs"]),
                str(values["patience"]),
                f"{size}{crop}",
                values["statistics"],
                others,
            ]
        )
    columns = ["model", "optimizer", "rate", "batch", "epochs", "patience", "pixels", "statistics", "other recipes"]
    return markdown_table(columns, rows)


def data_sets() -> str:
    """Return the table of the named data sets."""
    rows = [
        [f"`{row['name']}`", f"{row['images']:,}", row["shape"], str(row["classes"]), row["source"].partition(";")[0]]
        for row in catalog.listing()
    ]
    return markdown_table(["name", "images", "shape", "classes", "source"], rows)


def operations() -> str:
    """Return the table of the server's operations."""
    rows = []
    for entry in OPERATIONS:
        bodies = ", ".join(f"`{kind}`" for kind in entry.body) or "-"
        rows.append([f"`{entry.method} {entry.path}`", bodies, entry.summary.removesuffix("."), entry.access])
    return markdown_table(["operation", "body", "answers with", "token"], rows)


def figures() -> str:
    """Return the table of the figures of `xeval`."""
    rows = [[f"`{name}`", figure.title, figure.source] for name, figure in TOTALS.items()]
    return markdown_table(["JSON and CSV", "figure", "definition"], rows)


def errors() -> str:
    """Return the table of the statuses that an error can have."""
    rows = [[str(status), f"`{CODES.get(status, 'internal')}`", when] for status, when in sorted(WHEN.items())]
    return markdown_table(["status", "code", "when"], rows)


def results(name: str, *numbers: str) -> str:
    """Return the tables of a benchmark, or some of them by number, with their origin."""
    report = Report.read(DOCS / "results" / f"{name}.json")
    if numbers:
        report = Report(**{**vars(report), "tables": [report.tables[int(number)] for number in numbers]})
    return report.markdown()


def headline(name: str, rows: str, *columns: str) -> str:
    """Return the first rows of a benchmark's first table, in some of its columns by number, without their origin."""
    first = Report.read(DOCS / "results" / f"{name}.json").tables[0]
    chosen = [int(column) for column in columns]
    cells = [[row[column] for column in chosen] for row in first.rows[: int(rows)]]
    return markdown_table([first.columns[column] for column in chosen], cells)


MAKERS: dict[str, Callable[..., str]] = {
    "help": help_of,
    "options": options,
    "switches": switches,
    "recipes": recipes,
    "data": data_sets,
    "operations": operations,
    "errors": errors,
    "figures": figures,
    "results": results,
    "headline": headline,
}


def render(text: str) -> str:
    """Return a page with its parts written anew."""

    def part(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        return f"{match[1]}\n{MAKERS[name](*arguments)}\n\n{match[4]}"

    return PART.sub(part, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
