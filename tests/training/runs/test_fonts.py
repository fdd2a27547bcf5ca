"""Class names that the default font does not have: Chinese, Arabic, emoji."""

import warnings
from pathlib import Path

import numpy as np

from tests.conftest import Command, make_npz
from training.runs.fonts import drawable, drawable_names, families
from training.runs.report import plot_confusion


def test_names_without_a_font_become_their_numbers() -> None:
    unknown = ["\U000f0000", "b"]  # a private character, which no font has
    assert drawable_names(unknown) == ["0", "1"] and drawable_names(["a", "é"]) == ["a", "é"]
    assert drawable("set \U000f0000") == "set ?" and families(["a"]) == families(["b"])


def test_a_run_with_names_in_any_script(command: Command, tmp_path: Path) -> None:
    """Warnings of missing glyphs are errors in these tests."""
    names = np.array(["脂肪", "背景", "débris"])
    data = make_npz(tmp_path / "组织.npz", class_names=names)
    result = command("xtrain", "simplecnn", "--data", data, "--epochs", 1, "-o", tmp_path / "run")
    assert result.code == 0 and (tmp_path / "run" / "confusion.png").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.eye(2, dtype=int), ["شحم", "🙂"], "عنوان").canvas.draw()
