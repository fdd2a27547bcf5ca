"""The CSV of `xpredict`, line by line."""

import io

import pytest

from scoring.predict import Prediction
from scoring.table import CsvTable

BROKEN = Prediction("a.png", error="no image")


def test_files_before_the_first_that_was_read_wait_for_the_classes() -> None:
    table = CsvTable(file := io.StringIO())
    table.add(BROKEN)
    assert file.getvalue() == ""
    table.add(Prediction("b.png", "y", 0.75, {"y": 0.75, "x, too": 0.25}, classes=("x, too", "y")))
    lines = ['FILE,LABEL,PROBABILITY,ERROR,"P(x, too)",P(y)', "a.png,,,no image,,", "b.png,y,0.75,,0.25,0.75"]
    assert file.getvalue().splitlines() == lines
    table.close()
    assert file.getvalue().splitlines() == lines


def test_where_none_was_read_no_class_is_known() -> None:
    table = CsvTable(file := io.StringIO())
    table.add(BROKEN)
    table.close()
    assert file.getvalue() == "FILE,LABEL,PROBABILITY,ERROR\na.png,,,no image\n"


@pytest.mark.parametrize("name", ["=1+1.png", "+1", "-1", "@a", "\ta", "\ra"])
def test_what_a_spreadsheet_would_compute_is_text(name: str) -> None:
    table = CsvTable(file := io.StringIO())
    table.add(Prediction(name, error="no image"))
    table.close()
    assert file.getvalue().split("\n")[1].strip('"').startswith(f"'{name}")
