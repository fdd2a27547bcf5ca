"""Options declared once: a dataclass field carries its help, range and choices.

Flows in: a dataclass whose fields were made with `option`. Flows out: click options (`click_options`), checked values
(`check`), values from environment variables (`from_environment`) and the rows of a table (`table`). Only the first
loads click: the training loop runs where torch and numpy alone are installed.
"""

import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from xtrain.errors import ConfigError, nearest

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
METADATA = "option"


@dataclass(frozen=True)
class Option:
    """What is known of one option besides its name, type and default.

    Attributes:
        help: one sentence for `--help` and the documentation.
        low: smallest value, itself allowed unless `open_low`.
        high: largest value, itself allowed unless `open_high`.
        choices: the allowed words.
        metavar: placeholder of the value in `--help`.
        flags: the flags where they are not made from the field's name, such as `("-o", "--output")`.
        default_text: stands for the default where it is computed.
        applies: when the option has an effect, where that is not always.
        resume: whether a resumed run may change it.
        switch: a boolean that can only be turned on, so without a `--no-` form.
        words: words that may stand in place of a number, each for a number outside the range.
        several: text that lists words, separated by commas; on the command line the option may also be repeated.
    """

    help: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    default_text: str | None = None
    applies: str | None = None
    resume: bool = False
    switch: bool = False
    words: Mapping[str, float] = field(default_factory=dict)
    several: bool = False

    @property
    def range(self) -> str | None:
        """The range in words, such as `above 0 and below 1`; None for none."""
        low = None if self.low is None else f"{'above' if self.open_low else 'at least'} {self.low}"
        high = None if self.high is None else f"{'below' if self.open_high else 'at most'} {self.high}"
        return " and ".join(part for part in (low, high) if part) or None


def option(default: Any = MISSING, **description: Any) -> Any:
    """Declare a dataclass field with an `Option`; a `dict` as the default becomes a fresh one each time."""
    metadata = {METADATA: Option(**description)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def described(cls: type) -> dict[str, tuple[Field[Any], Option]]:
    """Return the fields of a dataclass that are options, by name, in order."""
    return {item.name: (item, item.metadata[METADATA]) for item in fields(cls) if METADATA in item.metadata}


def flag(cls: type, name: str) -> str:
    """Return the long flag of a field, such as `--batch-size`."""
    flags = described(cls)[name][1].flags
    return next((text for text in flags if text.startswith("--")), "--" + name.replace("_", "-"))


def kind(cls: type, name: str) -> type:
    """Return the type of a field without `None`."""
    hint = typing.get_type_hints(cls)[name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    of: type = typing.get_origin(hint) or hint
    return of


def click_options(
    cls: type, *, unset: bool = False, environment: bool = False, without: tuple[str, ...] = ()
) -> Callable[[Decorated], Decorated]:
    """Return a decorator that adds a click option for every described field.

    Args:
        cls: the dataclass.
        unset: whether an option that is not given is None, because its default depends on others.
        environment: whether the value of an option that is not given comes from its environment variable.
        without: fields that the command takes in another way.
    """

    def decorate(command: Decorated) -> Decorated:
        for name, (item, _) in reversed(described(cls).items()):
            if name not in without:
                variable = environment_variable(name) if environment else None
                command = _click_option(cls, name, item, unset, variable)(command)
        return command

    return decorate


def _click_option(
    cls: type, name: str, item: Field[Any], unset: bool, variable: str | None
) -> Callable[[Decorated], Decorated]:
    import click

    from xtrain.console import FilePath, NumberOrWord

    of, entry = kind(cls, name), described(cls)[name][1]
    default = None if unset or item.default is MISSING else item.default
    shown = _default(item, entry)
    help_text = entry.help
    notes = [entry.range, f"default: {shown}" if shown else None]
    if any(notes):
        help_text = f"{help_text.removesuffix('.')}  [{'; '.join(note for note in notes if note)}]"
    flags = entry.flags or (flag(cls, name),)
    if of is bool:
        if entry.switch:
            return click.option(*flags, name, is_flag=True, default=default, envvar=variable, help=help_text)
        both = f"{flags[-1]}/--no-{flags[-1][2:]}"
        return click.option(both, name, default=default, envvar=variable, help=help_text)
    value_type: Any = of
    if entry.choices:
        value_type = click.Choice(entry.choices)
    elif of is Path:
        value_type = FilePath()
    elif entry.words:
        value_type = NumberOrWord(of, entry.words)
    described_as: dict[str, Any] = {"default": default, "metavar": entry.metavar, "help": help_text}
    if entry.several:
        described_as |= {"multiple": True, "callback": _joined}
    return click.option(*flags, name, type=value_type, envvar=variable, **described_as)


def _joined(context: Any, parameter: Any, values: tuple[str, ...]) -> str | None:
    """Return the lists of an option that was repeated as one list, None where it was not given; a callback of click."""
    return ",".join(values) if values else None


def _default(item: Field[Any], entry: Option) -> str | None:
    """Return the default as a reader should see it; None where there is nothing to say."""
    if entry.default_text or entry.switch or item.default is None or item.default is MISSING:
        return entry.default_text
    if isinstance(item.default, bool):
        return "on" if item.default else "off"
    return f"{item.default:g}" if isinstance(item.default, float) else str(item.default)


def make(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a checked dataclass from keyword arguments, where None stands for the default.

    Numbers of other libraries become Python's, and paths are taken as text or `Path`.

    Raises:
        ConfigError: an option that does not exist, or a value of the wrong type or outside its range.
    """
    refuse_unknown(values, *described(cls))
    made = cls(**{name: _plain(kind(cls, name), value) for name, value in values.items() if value is not None})
    check(made)
    return made


def plain_values(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are options of `cls` as plain Python values, the others as they are."""
    names = described(cls)

    def plain(name: str, value: Any) -> Any:
        words = names[name][1].words
        return words[value] if isinstance(value, str) and value in words else _plain(kind(cls, name), value)

    return {name: plain(name, value) if name in names else value for name, value in values.items()}


def _plain(of: type, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if of is int and isinstance(value, numbers.Integral):
        return int(value)
    if of is float and isinstance(value, numbers.Real):
        return float(value)
    if of in (str, Path) and isinstance(value, str | os.PathLike):
        return of(os.fspath(value))
    return value


def check(values: Any) -> None:
    """Check every described field of a dataclass instance for its type, range and choices.

    Raises:
        ConfigError: naming the first option that is wrong, and what it takes.
    """
    cls = type(values)
    for name, (_, entry) in described(cls).items():
        value, of, shown = getattr(values, name), kind(cls, name), flag(cls, name)
        if value is None:
            continue
        if of is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, of) or (of is int and isinstance(value, bool)):
            raise ConfigError(f"{shown} is {value!r}; it must be {_TYPES.get(of, of.__name__)}")
        if entry.choices and value not in entry.choices:
            raise ConfigError(f"{shown} is {value!r}; {nearest(str(value), entry.choices)}")
        if isinstance(value, int | float) and not isinstance(value, bool) and not _inside(value, entry):
            finite = math.isfinite(value) and entry.range
            raise ConfigError(f"{shown} is {value}; it must be {finite or 'a finite number'}")


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _inside(value: float, entry: Option) -> bool:
    if not math.isfinite(value):
        return False
    if value in entry.words.values():
        return True
    if entry.low is not None and (value < entry.low or (entry.open_low and value == entry.low)):
        return False
    return entry.high is None or not (value > entry.high or (entry.open_high and value == entry.high))


def environment_variable(name: str) -> str:
    """Return the environment variable of a field, such as `XTRAIN_MAX_BATCH`."""
    return f"XTRAIN_{name.upper()}"


def from_environment(cls: type[T], environment: Mapping[str, str]) -> T:
    """Make a dataclass from the environment variables of its described fields; an empty one counts as absent.

    Raises:
        ConfigError: a value of another type, outside its range, or a required one that is missing.
    """
    values: dict[str, Any] = {}
    for name, (item, _) in described(cls).items():
        variable = environment_variable(name)
        text = environment.get(variable, "")
        if not text:
            if item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(f"{variable} is not set")
            continue
        values[name] = _parsed(kind(cls, name), text, variable)
    made = cls(**values)
    try:
        check(made)
    except ConfigError as error:
        text = str(error)
        for name in values:
            text = text.replace(flag(cls, name) + " ", environment_variable(name) + " ", 1)
        raise ConfigError(text) from None
    return made


def to_environment(values: Any) -> dict[str, str]:
    """Return the environment variables that `from_environment` reads the same values from."""
    return {
        environment_variable(name): str(getattr(values, name))
        for name in described(type(values))
        if getattr(values, name) is not None
    }


def _parsed(of: type, text: str, variable: str) -> Any:
    if of is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{variable} is {text!r}; it must be true or false")
        return text.lower() in ("true", "1")
    try:
        return of(text)
    except ValueError:
        raise ConfigError(f"{variable} is {text!r}; it must be {_TYPES[of]}") from None


def refuse_unknown(names: Mapping[str, Any], *known: str) -> None:
    """Refuse keyword arguments that no option has.

    Raises:
        ConfigError: with the nearest names.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no option {name!r}; {nearest(name, known)}")


def table(cls: type, without: tuple[str, ...] = ()) -> str:
    """Return the options of a dataclass as a Markdown table: flag, values, meaning; `without` some fields."""
    lines = ["| option | values | meaning |", "|---|---|---|"]
    for name, (item, entry) in described(cls).items():
        if name in without:
            continue
        of = kind(cls, name)
        long = flag(cls, name) if of is not bool or entry.switch else f"--[no-]{flag(cls, name)[2:]}"
        values = ", ".join(f"`{choice}`" for choice in entry.choices) or (_TYPES.get(of, "") if of is not bool else "")
        values = ", ".join(part for part in (values, entry.range) if part)
        shown = _default(item, entry)
        notes = [f"default {shown}" if shown else None, entry.applies and f"for {entry.applies}"]
        notes += ["may change with `--resume`"] if entry.resume else []
        more = "; ".join(note for note in notes if note)
        lines.append(f"| `{long}` | {values} | {entry.help.removesuffix('.')}{f' ({more})' if more else ''} |")
    return "\n".join(lines)
