"""Options said once: the flags, the checks, the environment and the documentation agree because they are one."""

import re
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from export.options import ExportOptions
from scoring.options import FigureOptions, PredictionOptions, ReadingOptions, ScoringOptions
from serving.settings import Settings
from tests.conftest import Command
from training.config import RunOptions, TrainConfig
from xtrain.errors import ConfigError
from xtrain.options import check, click_options, described, flag, from_environment, option


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Options of every kind."""

    size: int = option(3, low=1, high=9, help="A size.")
    share: float | None = option(None, low=0, high=1, open_low=True, open_high=True, help="A share.")
    kind: str = option("a", choices=("a", "b"), help="A kind.")
    fast: bool = option(False, switch=True, help="Fast.")
    safe: bool = option(True, help="Safe.")
    path: Path | None = option(None, flags=("-p", "--path"), help="A path.")
    names: dict[str, str] = option({}, help="Names.")


@click.command()
@click_options(Toy, environment=True, without=("names",))
def toy(**values: object) -> None:
    made = Toy(**values)  # type: ignore[arg-type]
    check(made)
    click.echo(repr(made))


def test_flags_give_the_values() -> None:
    result = CliRunner().invoke(toy, ["--size", "4", "--share", "0.5", "--kind", "b", "--fast", "--no-safe", "-p", "x"])
    assert result.output.strip() == repr(Toy(size=4, share=0.5, kind="b", fast=True, safe=False, path=Path("x")))
    assert CliRunner().invoke(toy, []).output.strip() == repr(Toy())
    environment = {"XTRAIN_SIZE": "5", "XTRAIN_SAFE": "false", "XTRAIN_PATH": "y"}
    expected = Toy(size=5, safe=False, path=Path("y"))
    assert CliRunner().invoke(toy, [], env=environment).output.strip() == repr(expected)
    assert from_environment(Toy, environment) == expected
    given = CliRunner().invoke(toy, ["--size", "2"], env=environment)
    assert "size=2" in given.output, "a flag comes before its variable"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "--size is 0; it must be at least 1 and at most 9"),
        ({"size": 10}, "--size is 10"),
        ({"size": True}, "--size is True; it must be a whole number"),
        ({"size": 1.0}, "--size is 1.0; it must be a whole number"),
        ({"share": 0}, "--share is 0.0; it must be above 0 and below 1"),
        ({"share": 1.0}, "--share is 1.0"),
        ({"share": float("nan")}, "--share is nan"),
        ({"kind": "c"}, "--kind is 'c'; choose one of: a, b"),
        ({"fast": 1}, "--fast is 1; it must be true or false"),
        ({"path": "text"}, "--path is 'text'; it must be a path"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(Toy(**values))  # type: ignore[arg-type]


def test_a_mutable_default_is_not_shared() -> None:
    assert Toy().names == {} and Toy().names is not Toy().names


COMMANDS = {
    "xtrain": (TrainConfig, RunOptions),
    "xexport": (ExportOptions,),
    "xeval": (ScoringOptions, FigureOptions),
    "xscore": (ScoringOptions, ReadingOptions, PredictionOptions),
    "xscore merge": (PredictionOptions,),
    "xserve": (Settings,),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_with_its_words(name: str, command: Command) -> None:
    shown = " ".join(command(*name.split(), "--help").out.split())
    for cls in COMMANDS[name]:
        for field, (_, entry) in described(cls).items():
            if (cls, field) != (Settings, "model") and (name, field) != ("xscore", "allow_overlap"):
                assert f"{flag(cls, field)} " in shown, field
                assert entry.help.removesuffix(".") in shown.replace("- ", "-"), field
