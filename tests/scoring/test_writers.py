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

from scoring.options import PredictionOptions, ScoringOptions
from scoring.score import Output, score
from scoring.writers import NO_CLASS, classes_of
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


@pytest.mark.parametrize("name", ["out.parquet", "out.json", "out", "out.csv.gz"])
def test_other_names_are_refused(command: Command, sample_model: Path, sample: Path, tmp_path: Path, name: str) -> None:
    result = command("xscore", sample_model, sample, "-o", tmp_path / name)
    assert result.code == 2 and ".csv or .jsonl" in result.error and not (tmp_path / name).exists()


def test_a_model_that_fails_half_way_leaves_the_old_file(
    sample_model: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part is written when the second one fails, here for a full disk that progress reports."""
    from scoring import score as module

    monkeypatch.setattr(module, "MAX_RUN", 100)
    path, seen = tmp_path / "out.csv", []
    path.write_text("mine")

    def full(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 150:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        score(sample_model, ScoringOptions(), str(sample), Output(path, overwrite=True, progress=full))
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
