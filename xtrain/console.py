"""The edge between the library and a terminal: shared click options, and errors as one line with an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import shell_complete

from xtrain import __version__
from xtrain.errors import XtrainError
from xtrain.signals import MESSAGE, raise_interrupt

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def shared_options(command: Decorated) -> Decorated:
    """Add what every command has: `--debug`, `--version` and `-h`."""
    command = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)
    return click.version_option(__version__, prog_name="xtrain")(command)


class FilePath(click.ParamType[Path]):
    """A path that is not empty: an empty one, from a variable that is not set, would be the present folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check and convert."""
        if not str(value).strip():
            self.fail("the path is empty; name a file or folder", param, ctx)
        return Path(value)


class NumberOrWord(click.ParamType[float]):
    """A number, or one of a few words that stand for one."""

    def __init__(self, of: type, words: Mapping[str, float]) -> None:
        self.of, self.words, self.name = of, words, "|".join(["integer" if of is int else "float", *words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = self.words[value] if value in self.words else _NUMBERS[self.of].convert(value, param, ctx)
        return number


_NUMBERS: dict[type, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT}

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the file of an earlier command.")


def spelled(name: str, context: click.Context) -> list[str]:
    """Return the words of a command as it was called: its arguments, then the options that were given."""
    arguments, options = [name], list[str]()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value is None or context.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        values = [str(part) for part in (value if isinstance(value, tuple) else (value,))]
        if isinstance(parameter, click.Argument):
            arguments += values
        elif getattr(parameter, "is_flag", False):
            options.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            options += [word for part in values for word in (parameter.opts[0], part)]
    return arguments + options


def run(command: click.Command, name: str | None = None) -> NoReturn:
    """Run a click command as a program: exit 0 when done, 2 on wrong usage, 1 on anything else.

    Every failure is one line on stderr; a traceback appears only with `--debug`.
    """
    debug = "--debug" in sys.argv[1:]
    program = name or command.name or ""
    variable = f"_{program.replace(' ', '_').upper()}_COMPLETE"
    if variable in os.environ:  # the shell asks for completions
        sys.exit(shell_complete(command, {}, program, variable, os.environ[variable]))
    try:
        raise_interrupt()  # a scheduler's SIGTERM ends as cleanly as Ctrl-C
        # Not `command.main`, which writes an empty line at Ctrl-C.
        with command.make_context(program, sys.argv[1:]) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as ended:  # --help, --version
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        failed = getattr(error, "ctx", None)
        where = f" (see {failed.command_path} --help)" if failed else ""
        _complain(error.format_message() + where, debug)
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except XtrainError as error:
        _complain(str(error), debug)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain(MESSAGE.strip().removeprefix("error: "), debug)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; say nothing more
        sys.exit(1)
    except MemoryError as error:
        _complain(f"out of memory: {error or 'try a smaller batch or image size'}", debug)
        sys.exit(1)
    except Exception as error:
        _complain(f"unexpected {type(error).__name__}: {error} (--debug shows where)", debug)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, debug: bool) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
        return  # of several processes that torchrun started the main one speaks
    if debug:
        traceback.print_exc()
    click.echo("error: " + " ".join(message.split()), err=True)
