"""What a benchmark measured, as the JSON file that the pages of docs/ take their tables from.

Flows in: tables of a benchmark. Flows out: `docs/results/NAME.json`, and Markdown with the machine and the command.
"""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from training.runs.environment import git_commit, package_versions
from xtrain.files import open_atomic

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def json_option(command: Decorated) -> Decorated:
    """Add `--json`; click is loaded here alone, since `benchmarks.gpu` runs without it."""
    import click

    return click.option(
        "--json", "json_file", type=click.Path(path_type=Path), help="Write the tables to this file too."
    )(command)


@dataclass(frozen=True)
class Table:
    """One table; the cells are text as it is printed."""

    caption: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def head(self) -> str:
        """Return the caption and the head of the Markdown table."""
        caption = f"\n{self.caption}\n\n" if self.caption else ""
        return f"{caption}{self.line(self.columns)}\n{self.line(['---'] * len(self.columns))}"

    @staticmethod
    def line(cells: Sequence[str]) -> str:
        """Return one line of the Markdown table."""
        return "| " + " | ".join(cells) + " |"

    def markdown(self) -> str:
        """Return the whole table."""
        return "\n".join([self.head(), *(self.line(row) for row in self.rows)])


@dataclass(frozen=True)
class Report:
    """The tables of one command, with what a reader must know of them."""

    tables: Sequence[Table]
    command: str
    hardware: str
    packages: dict[str, str]
    git_commit: str | None
    date: str
    runs: Sequence[dict[str, Any]] = ()  # what the tables are made of, where several commands add up to them

    @classmethod
    def make(cls, tables: Sequence[Table], hardware: str = "") -> "Report":
        """Return the report of the command that runs, on this machine, today."""
        module = Path(sys.argv[0]).stem
        command = shlex.join(["python", "-m", f"benchmarks.{module}", *_shown_arguments(sys.argv[1:])])
        here = hardware or machine()
        return cls(tables, command, here, package_versions(), git_commit(), datetime.date.today().isoformat())

    def write(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            OutputError: it cannot be written.
        """
        with open_atomic(path, "w") as file:
            file.write(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Read what `write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "tables": [Table(**table) for table in values["tables"]]})

    def markdown(self) -> str:
        """Return the tables, and below them when, where and with which command they were measured."""
        commit = f", commit {self.git_commit[:12]}" if self.git_commit else ""
        origin = f"`{self.command}` on {self.date}: {self.hardware}{commit}."
        return "\n".join([*(table.markdown() for table in self.tables), "", origin]).strip()


def _shown_arguments(words: Sequence[str]) -> list[str]:
    """Return the arguments without where the result goes, and paths without the folders of this machine."""
    before = ["", *words]
    kept = [word for word, last in zip(words, before, strict=False) if "--json" not in (word, last)]
    return [Path(word).name if os.sep in word else word for word in kept]


def machine() -> str:
    """Return this machine's cores and processor."""
    return f"{os.cpu_count()} cores, {_processor()}"


def _processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
