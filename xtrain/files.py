"""Writing files so that an interrupted command leaves the old file or none, never half of one."""

import csv
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from xtrain.errors import ConfigError, DataError, OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block ends without an error.

    Raises:
        OutputError: the file could not be written (full disk, no permission, …); `path` is untouched.
    """
    # Processes of two containers may have one number, and write the same file into a shared folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:  # the rename must not reach the disk before the bytes do
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # its folder is gone or never was one; the error above says so


STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1")
SPOOL_BYTES = 16 * 1024 * 1024  # of a table for the standard output that wait in memory; more wait in a file


def check_table(path: Path, inputs: Iterable[str | Path], overwrite: bool, suffixes: Sequence[str] = (".csv",)) -> None:
    """Refuse a place for a table before anything is computed; the standard output is always taken.

    Raises:
        ConfigError: a name that ends in none of the suffixes.
        OutputError: it is read by the command, exists and `overwrite` is off, or cannot be written.
    """
    if str(path) in STANDARD_OUTPUT:
        return
    refuse_inputs(path, inputs)
    if path.suffix.lower() not in suffixes:
        known = " or ".join(suffixes)
        raise ConfigError(f"{path}: name a file that ends in {known} (nothing else is written), or - for CSV")
    refuse_existing(path, overwrite)


def read_csv(path: Path, advice: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a CSV with their numbers, from 1; Excel's byte order mark, line ends and semicolons are taken.

    Args:
        path: the file.
        advice: ends the message where it cannot be read, such as `name a CSV of paths`.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it as CSV in UTF-8") from error
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for line in lines:
            yield lines.line_num, line
    except csv.Error as error:
        raise DataError(f"{path}: line {lines.line_num} is no CSV ({error}); {advice}") from error


@contextmanager
def open_table(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a table for writing: whole or not at all, as text the standard output for `-` too."""
    if str(path) in STANDARD_OUTPUT:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+", newline="", encoding="utf-8") as kept:
            yield kept
            kept.seek(0)
            shutil.copyfileobj(kept, sys.stdout)
        sys.stdout.flush()
        return
    with open_atomic(path, "wb" if binary else "w") as file:
        yield file


@contextmanager
def open_atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open `path` for writing through `replacing`; `mode` is `"w"` (UTF-8, newlines as written) or `"wb"`."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with replacing(path) as temporary, open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file


def refuse_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise OutputError if `path` is one of the files that are read."""
    for given in inputs:
        if Path(given).exists() and path.exists() and os.path.samefile(given, path):
            raise OutputError(f"{path}: is read by this command and would be replaced; choose another -o")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` exists and may not be replaced, or can never become a file."""
    _refuse_parent(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another -o or add --overwrite")


def _refuse_parent(path: Path) -> None:
    """Raise OutputError if the folder of `path`, or the nearest one above it that exists, cannot be written."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{path}: {above} is a file; choose another -o")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: {above} cannot be written; choose another -o")


LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # of file managers, in every folder that was looked at
MANIFEST = ".xtrain"  # names what a command wrote into a folder, so that it may replace that and nothing else


@contextmanager
def replacing_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it into place when the block ends without an error.

    Args:
        path: the folder to write.
        overwrite: whether a folder that an earlier command wrote may be replaced.

    Raises:
        OutputError: `path` holds anything else, or could not be written; it is untouched.
    """
    refuse_existing_folder(path, overwrite)
    path = path.resolve()
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        names = sorted(str(file.relative_to(temporary)) for file in temporary.rglob("*") if file.is_file())
        (temporary / MANIFEST).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def refuse_existing_folder(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` holds something that may not be replaced, or can never become a folder."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file; name a folder")
    path = path.resolve()
    if os.path.ismount(path) or Path.cwd().is_relative_to(path):
        raise OutputError(f"{path}: is the present folder, or one that cannot be renamed; name a folder below it")
    _refuse_parent(path)
    if not path.is_dir() or not any(path.iterdir()):
        return
    manifest = path / MANIFEST
    names = {MANIFEST, *manifest.read_text(encoding="utf-8").splitlines()} if manifest.is_file() else set()
    for file in path.rglob("*"):
        if not file.is_dir() and file.name not in LITTER and str(file.relative_to(path)) not in names:
            raise OutputError(f"{path}: holds {file.name}, which no export wrote; name a new folder")
    if not overwrite:
        raise OutputError(f"{path}: exists already; name another folder or add --overwrite")
