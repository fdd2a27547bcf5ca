import csv
import json
from pathlib import Path

import numpy as np
import pytest

from export.export import export_runs
from serving.model.predictor import Predictor
from tests.conftest import Command, train
from xtrain.data import catalog
from xtrain.data.datasets import read_npz


@pytest.fixture(scope="module")
def kaggle_model(tmp_path_factory: pytest.TempPathFactory, kaggle: Path) -> Path:
    folder = tmp_path_factory.mktemp("kaggle")
    run = train(folder / "run", "simplecnn", "--data", kaggle, "--epochs", 2)
    export_runs([run], folder / "kaggle.onnx")
    return folder / "kaggle.onnx"


def test_xeval_names_protocol_and_split(command: Command, sample_model: Path, sample: Path) -> None:
    result = command("xeval", sample_model, sample)
    assert result.code == 0 and result.err == ""
    assert result.out.splitlines()[0] == "sample on pathmnist-sample, test split, official protocol"
    assert "302 images" in result.out and catalog.load(str(sample)).classes[7] in result.out


def test_xeval_json_holds_the_figures_of_the_predictions(command: Command, sample_model: Path, sample: Path) -> None:
    figures = json.loads(command("xeval", sample_model, sample, "--json").out)
    test = read_npz(sample).splits["test"]
    predicted = Predictor(sample_model).predict(test.images).argmax(axis=1)
    assert figures["accuracy"] == (predicted == test.labels).mean()
    assert (figures["protocol"], figures["split"], figures["rows"]) == ("official", "test", 302)
    assert 0 <= figures["accuracy_interval"][0] < figures["accuracy"] < figures["accuracy_interval"][1] <= 1


def test_xeval_of_validation_equals_the_cards_figure(command: Command, sample_model: Path, sample: Path) -> None:
    figures = json.loads(command("xeval", sample_model, sample, "--split", "val", "--json").out)
    assert figures["accuracy"] == Predictor(sample_model).card.metrics[0].metrics.accuracy


def test_rows_a_model_was_trained_on_are_not_its_test(command: Command, sample_model: Path, sample: Path) -> None:
    result = command("xeval", sample_model, sample, "--protocol", "pooled")
    assert result.code == 2 and "use --protocol official" in result.error


def test_xscore_writes_the_kaggle_format(command: Command, kaggle_model: Path, kaggle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = command("xscore", kaggle_model, kaggle, "-o", out)
    assert result.code == 0 and "365 predictions, test split, pooled protocol" in result.out
    assert out.read_bytes().startswith(b"ID,CLASS\n0,") and b"\r" not in out.read_bytes()
    rows = list(csv.reader(out.read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == [str(index) for index in range(365)]
    images = read_npz(kaggle).splits["test"].images
    assert [int(row[1]) for row in rows[1:]] == Predictor(kaggle_model).predict(images).argmax(1).tolist()


def test_the_solution_file_scores_held_back_labels(
    command: Command, kaggle_model: Path, kaggle: Path, data_dir: Path, tmp_path: Path
) -> None:
    assert "held back" in command("xeval", kaggle_model, kaggle).error
    solution = data_dir / "pathmnist-kaggle-sample-solution.csv"
    figures = json.loads(command("xeval", kaggle_model, kaggle, "--solution", solution, "--json").out)
    command("xscore", kaggle_model, kaggle, "-o", tmp_path / "out.csv")
    pairs = zip((tmp_path / "out.csv").read_text().split(), solution.read_text().split(), strict=True)
    hits = [ours == theirs for ours, theirs in pairs][1:]
    assert figures["accuracy"] == np.mean(hits) and figures["rows"] == 365
    # Two epochs learn something: far above the share of the largest class.
    assert figures["accuracy"] > 0.4


@pytest.mark.parametrize("text", ["", "ID,CLASS\n0,1\n", "id,class\n", "ID,CLASS\n" + "0,1\n" * 365, "ID,CLASS\nx,y\n"])
def test_a_broken_solution_is_refused(
    command: Command, kaggle_model: Path, kaggle: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "solution.csv"
    path.write_text(text)
    assert command("xeval", kaggle_model, kaggle, "--solution", path).code == 1


def test_data_of_another_shape(command: Command, sample_model: Path, tiny: Path) -> None:
    result = command("xeval", sample_model, tiny)
    assert result.code == 1 and "(28, 28, 1), the model takes (28, 28, 3)" in result.error


def test_labels_the_model_does_not_know(command: Command, sample_model: Path, sample: Path, tmp_path: Path) -> None:
    with np.load(sample) as arrays:
        np.savez(tmp_path / "ten.npz", **{**arrays, "test_labels": np.full((302, 1), 9, np.uint8)})
    result = command("xeval", sample_model, tmp_path / "ten.npz")
    assert result.code == 1 and "test label 9 at row 0 is outside the 9 classes" in result.error


def test_existing_output_and_missing_files(command: Command, sample_model: Path, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    result = command("xscore", sample_model, sample, "-o", out)
    assert result.code == 1 and "--overwrite" in result.error and out.read_text() == "mine"
    assert command("xscore", sample_model, sample, "-o", out, "--overwrite").code == 0
    result = command("xscore", tmp_path / "no.onnx", sample, "-o", tmp_path / "new.csv")
    assert result.code == 1 and "no such file" in result.error and not (tmp_path / "new.csv").exists()
    result = command("xscore", sample_model, "pathmist", "-o", tmp_path / "new.csv")
    assert result.code == 2 and "pathmnist" in result.error
