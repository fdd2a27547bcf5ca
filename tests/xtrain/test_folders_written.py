"""Folders that a command writes: whole or not at all, and never in place of somebody else's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from xtrain.errors import OutputError
from xtrain.files import MANIFEST, replacing_folder


def write(path: Path, text: str = "new", overwrite: bool = False) -> None:
    with replacing_folder(path, overwrite) as staged:
        (staged / "sub").mkdir()
        (staged / "sub" / "file").write_text(text)


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(OutputError, match="--overwrite"):
        write(tmp_path / "a", "newer")
    write(tmp_path / "a", "newer", overwrite=True)
    assert (tmp_path / "a" / "sub" / "file").read_text() == "newer"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [MANIFEST, "sub"]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["thesis.tex", "sub/other", ".git/HEAD", "sub/.hidden"])
def test_whatever_else_lies_in_it_is_kept(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).write_text("all of it")
    with pytest.raises(OutputError, match="which no export wrote"):
        write(tmp_path / "a", "newer", overwrite=True)
    assert (tmp_path / "a" / name).read_text() == "all of it" and os.listdir(tmp_path) == ["a"]


def test_it_looks_no_further_than_the_first_strange_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder may hold a million of them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("all of it")

    def rglob(folder: Path, _: str) -> Iterator[Path]:
        yield folder / "thesis.tex"
        raise AssertionError("looked further")

    monkeypatch.setattr(Path, "rglob", rglob)
    with pytest.raises(OutputError, match="holds thesis.tex"):
        write(tmp_path / "a", overwrite=True)


def test_a_device_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_lies_where_nothing_can_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "locked" / "a")
    (tmp_path / "locked" / MANIFEST).mkdir()  # beside it, where it says nothing of it
    write(tmp_path / "locked" / "a", overwrite=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "locked")
    for name in ("a", "b"):
        with pytest.raises(OutputError, match="locked cannot be written"):
            write(tmp_path / "locked" / name, overwrite=True)


def test_the_present_folder_and_those_above_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    for path in (Path(), Path("../m"), Path(".."), Path("/"), tmp_path / "m" / ".." / "m"):
        with pytest.raises(OutputError, match="present folder"):
            write(path, overwrite=True)
    assert os.listdir(tmp_path) == ["m"] and os.listdir(tmp_path / "m") == []
    write(Path("below"))
    assert (tmp_path / "m" / "below" / "sub" / "file").is_file()


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write(tmp_path / "link", "newer", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "sub" / "file").read_text() == "newer"
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


def test_a_failure_leaves_what_was(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(OutputError, match="cannot write"):
        with replacing_folder(tmp_path / "a", overwrite=True) as staged:
            (staged / "half").write_text("x")
            raise OSError(28, "No space left on device")
    assert (tmp_path / "a" / "sub" / "file").read_text() == "new" and os.listdir(tmp_path) == ["a"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "file", overwrite=True)


def test_an_empty_folder_and_new_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "x" / "y" / "z")
    assert (tmp_path / "x" / "y" / "z" / "sub" / "file").is_file()
