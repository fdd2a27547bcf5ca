"""Solution files: as Kaggle and Excel write them, and wrong in every way."""

from pathlib import Path

import pytest

from scoring.options import Solution
from scoring.solution import read_solution
from tests.conftest import Command
from xtrain.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        b"ID,CLASS\n0,1\n1,0\n2,2\n",
        b"\xef\xbb\xbfID,CLASS\r\n2,2\r\n0,1\r\n1,0\r\n\r\n",
        b"\xef\xbb\xbfID;CLASS\r\n0;1\r\n1;0\r\n2;2\r\n",
        b"Usage, CLASS ,ID\nPublic,1,0\nPrivate,0,1\nPublic,2,2",
    ],
)
def test_as_others_write_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    assert read_solution(Solution(path=tmp_path / "s.csv"), 3, 3).tolist() == [1, 0, 2]


def test_other_column_names(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("image,tissue\n1,0\n0,1\n")
    named = Solution(path=tmp_path / "s.csv", id_column="image", class_column="tissue")
    assert read_solution(named, 2, 2).tolist() == [1, 0]
    with pytest.raises(DataError, match="line 1 has no column ID, but image, tissue; name it with --id-column"):
        read_solution(Solution(path=tmp_path / "s.csv"), 2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 has no column ID, but nothing"),
        ("ID,CLASS\n0,1\n", "1 of 2 ids have no line, the first is 1"),
        ("ID,CLASS\n0,1\n0,1\n", "line 3: id 0 stands in an earlier line"),
        ("ID,CLASS\n0,1\n7,1\n", "line 3: id 7 is outside 0-1"),
        ("ID,CLASS\n0,1\n1,5\n", "line 3: class 5 is outside 0-2"),
        ("ID,CLASS\n0,1\n1,-1\n", "line 3: class -1 is outside"),
        ("ID,CLASS\nx,1\n", "line 2 is 'x,1'"),
        ("ID,CLASS\n0,1\n\n1\n", "line 4 is '1'"),
    ],
)
def test_the_line_and_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_solution(Solution(path=tmp_path / "s.csv"), 2, 3)


def test_not_text_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("ID,CLASS\n0,ä".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8; save it as CSV in UTF-8"):
        read_solution(Solution(path=tmp_path / "s.csv"), 1, 1)
    with pytest.raises(DataError, match="No such file"):
        read_solution(Solution(path=tmp_path / "absent.csv"), 1, 1)


def test_labels_of_the_data_are_not_replaced(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    """The model's own predictions as the solution gave an AUC of 1."""
    assert command("xscore", sample_model, sample, "-o", tmp_path / "out.csv").code == 0
    result = command("xeval", sample_model, sample, "--solution", tmp_path / "out.csv")
    assert result.code == 2 and "has labels of its own" in result.error
    assert "leave them out" in command("xeval", sample_model, sample, "--id-column", "x").error
