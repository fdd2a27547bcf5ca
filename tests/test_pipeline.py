"""The whole path as a user walks it: every console script as its own process, from the .npz to the answer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from serving.model.predictor import Predictor
from tests.serving.server import running
from xtrain.data.datasets import read_npz

SCRIPTS = Path(sys.executable).parent


def run(folder: Path, *words: object) -> str:
    name, *arguments = map(str, words)
    done = subprocess.run([str(SCRIPTS / name), *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_pooled_data_through_an_ensemble_to_a_csv_and_an_answer(
    kaggle: Path, data_dir: Path, sample: Path, tmp_path: Path
) -> None:
    for seed in (22, 23):
        run(tmp_path, "xtrain", "simplecnn", "--data", kaggle, "--epochs", 3, "--seed", seed, "-o", f"seed{seed}")
    exported = run(tmp_path, "xexport", "seed22", "seed23", "-o", "pair.onnx")
    assert "simplecnn (seed 22) + simplecnn (seed 23)" in exported
    run(tmp_path, "xscore", "pair.onnx", kaggle, "-o", "pair.csv")
    lines = (tmp_path / "pair.csv").read_text().splitlines()
    assert lines[0] == "ID,CLASS" and len(lines) == 366
    solution = data_dir / "pathmnist-kaggle-sample-solution.csv"
    figures = json.loads(run(tmp_path, "xeval", "pair.onnx", kaggle, "--solution", solution, "--json"))
    hits = [a == b for a, b in zip(lines, solution.read_text().splitlines(), strict=True)][1:]
    assert figures["accuracy"] == np.mean(hits) and figures["protocol"] == "pooled"

    # A tile over HTTP is a row of the data set in process.
    rows = json.loads((data_dir / "tiles" / "labels.json").read_text())["identical_to_sample_test_row"]
    images = read_npz(sample).splits["test"].images
    predictor = Predictor(tmp_path / "pair.onnx")
    home = tmp_path / "home"
    home.mkdir()
    with running(tmp_path / "pair.onnx", home) as client:
        for name, row in rows.items():
            content = (data_dir / "tiles" / name).read_bytes()
            answer = client.post("/v1/predict", content=content, headers={"Content-Type": "image/png"}).json()
            got = np.array(answer["predictions"][0]["probabilities"], np.float32)
            assert (got == predictor.predict(images[row : row + 1])[0]).all()
        assert [member["seed"] for member in client.get("/v1/model").json()["members"]] == [22, 23]


def test_the_demo() -> None:
    """`make demo` is what a newcomer runs first."""
    from tests.conftest import ROOT

    done = subprocess.run([sys.executable, "examples/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The service says 4; the picture shows a 4." in done.stdout
    for name in ("model.onnx", "predictions.csv", "digit.png", "simplecnn/summary.json"):
        assert name in done.stdout
