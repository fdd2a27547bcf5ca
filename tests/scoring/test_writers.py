"""What `xscore` writes beyond `ID,CLASS`, and that nothing half-written is left."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from scoring.options import PredictionOptions
from scoring.progress import describe
from scoring.score import score
from scoring.sources.opening import ImageInput
from scoring.writers.output import Destination
from scoring.writers.rows import NO_CLASS, classes_of
from serving.model.predictor import Predictor
from serving.model.submission import submission
from tests.conftest import Command
from xtrain import api
from xtrain.data.datasets import read_npz
from xtrain.errors import OutputError


@pytest.fixture(scope="module")
def probabilities(sample_model: Path, sample: Path) -> np.ndarray:
    return Predictor(sample_model).predict(read_npz(sample).splits["test"].images)


def test_the_file_and_the_service_write_one_csv(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    """Also where predictions come in parts of several runs."""
    path = tmp_path / "out.csv"
    assert command("xscore", sample_model, sample, "-o", path).code == 0
    assert path.read_text() == submission(probabilities)
    assert command("xscore", sample_model, sample, "-o", "-").out == path.read_text()


def test_json_lines_hold_every_number(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    path, classes = tmp_path / "out.jsonl", Predictor(sample_model).card.classes
    assert command("xscore", sample_model, sample, "-o", path, "--probabilities").code == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(302))
    # Numbers are written so that they are the same float32 when read.
    assert (np.array([line["probabilities"] for line in lines], np.float32) == probabilities).all()
    assert [line["class"] for line in lines] == probabilities.argmax(axis=1).tolist()
    assert all(line["label"] == classes[line["class"]] for line in lines)
    assert all(line["probability"] == max(line["probabilities"]) for line in lines)
    assert max(len(str(line["probability"])) for line in lines) < 16
    path.unlink()
    command("xscore", sample_model, sample, "-o", path)
    assert set(json.loads(path.read_text().splitlines()[0])) == {"id", "class", "label", "probability"}


def test_csv_with_a_column_for_each_class(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "out.csv"
    command("xscore", sample_model, sample, "-o", path, "--probabilities")
    head, *lines = csv.reader(path.read_text().splitlines())
    assert head == ["ID", "CLASS", *(f"P({name})" for name in Predictor(sample_model).card.classes)]
    assert (np.array([line[2:] for line in lines], np.float32) == probabilities).all()


def test_below_the_threshold_is_no_class(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    sure = probabilities.max(axis=1) >= 0.6
    assert 0 < sure.sum() < 302
    command("xscore", sample_model, sample, "-o", tmp_path / "out.csv", "--threshold", "0.6")
    chosen = np.array([int(line["CLASS"]) for line in csv.DictReader((tmp_path / "out.csv").open())])
    assert (chosen[sure] == probabilities.argmax(axis=1)[sure]).all() and (chosen[~sure] == -1).all()
    command("xscore", sample_model, sample, "-o", tmp_path / "out.jsonl", "--threshold", "0.6")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["class"] is None for line in lines] == (~sure).tolist()
    assert [line["label"] is None for line in lines] == (~sure).tolist()
    half = np.array([[0.5, 0.5]], np.float32)
    assert classes_of(half, 0.5).tolist() == [0] and classes_of(half, 0.51).tolist() == [NO_CLASS]
    for wrong in ("1.5", "-0.1", "nan"):
        result = command("xscore", sample_model, sample, "-o", tmp_path / "no.csv", "--threshold", wrong)
        assert result.code == 2 and not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize("name", ["out.json", "out", "out.csv.gz", "parquet"])
def test_other_names_are_refused(command: Command, sample_model: Path, sample: Path, tmp_path: Path, name: str) -> None:
    result = command("xscore", sample_model, sample, "-o", tmp_path / name)
    assert result.code == 2 and ".csv or .jsonl or .parquet" in result.error and not (tmp_path / name).exists()


def test_a_model_that_fails_half_way_leaves_the_old_file(
    sample_model: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part is written when the second one fails, here for a full disk that progress reports."""
    from scoring.sources import arrays

    monkeypatch.setattr(arrays, "MAX_RUN", 100)
    path, seen = tmp_path / "out.csv", []
    path.write_text("mine")

    def full(done: int, total: int | None) -> None:
        seen.append((done, total))
        if done > 150:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        score(sample_model, ImageInput(str(sample)), Destination(path, overwrite=True), full)
    assert seen == [(100, 302), (200, 302)] and path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_the_python_function_takes_the_same_options(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    scored = api.score(sample_model, sample, tmp_path / "out.jsonl", threshold=0.6, probabilities=True)
    assert scored.rows == 302 and '"class": null' in (tmp_path / "out.jsonl").read_text()
    assert PredictionOptions() == PredictionOptions(probabilities=False, threshold=None)


def test_a_terminal_sees_a_bar_and_a_file_none(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "scoring", "score", str(sample_model), str(sample), "-o"]
    done = subprocess.run([*words, str(tmp_path / "a.csv")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    terminal, end = pty.openpty()
    done = subprocess.run([*words, str(tmp_path / "b.csv")], stdout=subprocess.PIPE, stderr=end, timeout=60)
    os.close(end)
    assert done.returncode == 0 and b"100%" in os.read(terminal, 65536)
    os.close(terminal)


def test_the_most_probable_classes(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    assert command("xscore", sample_model, sample, "-o", tmp_path / "out.csv", "--top", 3).code == 0
    head, *lines = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    assert head == ["ID", "CLASS", "PROBABILITY", "CLASS_2", "PROBABILITY_2", "CLASS_3", "PROBABILITY_3"]
    assert (np.array([[line[1], line[3], line[5]] for line in lines], np.int64) == order).all()
    numbers = np.array([[line[2], line[4], line[6]] for line in lines], np.float32)
    assert (numbers == np.take_along_axis(probabilities, order, axis=1)).all()
    assert command("xscore", sample_model, sample, "-o", tmp_path / "out.jsonl", "--top", 99).code == 0
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert len(first["top"]) == 9 and first["top"][0]["probability"] == first["probability"]
    assert command("xscore", sample_model, sample, "-o", tmp_path / "no.csv", "--top", 0).code == 2


def test_parquet_holds_the_same(
    command: Command, sample_model: Path, sample: Path, probabilities: np.ndarray, tmp_path: Path
) -> None:
    """And the same bytes again; a class below the threshold is null."""
    path, options = tmp_path / "out.parquet", ("--probabilities", "--top", 2, "--threshold", 0.6)
    assert command("xscore", sample_model, sample, "-o", path, *options).code == 0
    table = parquet.read_table(path)
    assert table.column_names == [
        *("id", "class", "label", "probability"),
        *("top_classes", "top_probabilities", "probabilities"),
    ]
    columns = table.to_pydict()
    assert columns["id"] == list(range(302))
    assert (np.array(columns["probabilities"], np.float32) == probabilities).all()
    chosen = classes_of(probabilities, 0.6)
    assert [-1 if one is None else one for one in columns["class"]] == chosen.tolist()
    assert [label is None for label in columns["label"]] == (chosen == NO_CLASS).tolist()
    assert [pair[0] for pair in columns["top_classes"]] == probabilities.argmax(axis=1).tolist()
    assert json.loads(table.schema.metadata[b"classes"]) == list(Predictor(sample_model).card.classes)
    command("xscore", sample_model, sample, "-o", tmp_path / "again.parquet", *options)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_parquet_without_pyarrow_says_how_to_get_it(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    result = command("xscore", sample_model, sample, "-o", tmp_path / "out.parquet")
    assert result.code == 2 and "pip install 'xtrain[score]'" in result.error
    assert command("xscore", sample_model, sample, "-o", tmp_path / "out.csv").code == 0


def test_row_groups_do_not_depend_on_how_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scoring.options import ErrorPolicy
    from scoring.writers import parquet as module
    from scoring.writers.rows import Rows, answers_of

    monkeypatch.setattr(module, "GROUP_ROWS", 100)
    probabilities = np.random.default_rng(22).dirichlet(np.ones(3), 350).astype(np.float32)
    written = []
    for size in (7, 100, 350):
        path = tmp_path / f"{size}.parquet"
        with open(path, "wb") as file:
            writer = module.ParquetWriter(file, ("a", "b", "c"), PredictionOptions())
            for first in range(0, 350, size):
                rows = Rows(first, probabilities[first : first + size])
                writer.add(answers_of(rows, PredictionOptions(), ErrorPolicy("fail")))
            writer.close()
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    assert parquet.ParquetFile(tmp_path / "7.parquet").metadata.num_row_groups == 4


def test_a_progress_line_tells_rate_and_rest() -> None:
    assert describe(4096, 16_384, 2.0) == "4,096 of 16,384 images (25%), 2,048 images/s, 0:00:06 left"
    assert describe(100, None, 4.0) == "100 images, 25 images/s" and describe(0, 0, 0.0) == "0 images"
