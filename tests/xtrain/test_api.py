"""The public API: what a notebook calls, on real images, and the same as what the commands do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import xtrain
from tests.conftest import ROOT, Command
from training.runs import checkpoint
from xtrain.data.datasets import read_npz
from xtrain.errors import CheckpointError, ConfigError, ModelFileError


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> xtrain.Run:
    output = tmp_path_factory.mktemp("api") / "run"
    return xtrain.train("simplecnn", sample, epochs=2, output=output, dropout=True, progress=False)


@pytest.fixture(scope="module")
def model(run: xtrain.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exported = xtrain.export(run, tmp_path_factory.mktemp("api") / "m.onnx", explain=True)
    assert exported.path.is_file() and exported.parity.max_difference <= 1e-5 and exported.card.explain
    return exported.path


def test_a_run_is_that_of_the_command(run: xtrain.Run, command: Command, sample: Path, tmp_path: Path) -> None:
    assert (
        command("xtrain", "simplecnn", "--data", sample, "--epochs", 2, "--dropout", "-o", tmp_path / "run").code == 0
    )
    assert checkpoint.load(run.folder).digest == checkpoint.load(tmp_path / "run").digest
    assert isinstance(run, xtrain.Run) and len(run.history) == 2 and run.config["seed"] == 22
    assert run.summary is not None and run.summary["metrics"]["accuracy"] == run.best.accuracy
    assert run.best.accuracy == max(epoch["val_accuracy"] for epoch in run.history)
    assert "official protocol" in run.describe() and str(run.folder) in run.describe()


def test_a_run_is_opened_again(run: xtrain.Run, tmp_path: Path) -> None:
    assert xtrain.open_run(str(run.folder)) == run
    with pytest.raises(CheckpointError, match="name a run folder"):
        xtrain.open_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        xtrain.open_run(tmp_path)


def test_an_unfinished_run_has_a_best_epoch_too(run: xtrain.Run, tmp_path: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "best.pt", "last.pt"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    opened = xtrain.open_run(tmp_path)
    assert opened.summary is None and opened.best == run.best and "interrupted after 2 epochs" in opened.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "no option 'epoch'; did you mean epochs"),
        ({"epochs": "3"}, "--epochs is '3'; it must be a whole number"),
        ({"epochs": True}, "--epochs is True"),
        ({"epochs": 2.5}, "--epochs is 2.5"),
        ({"lr": float("inf")}, "--lr is inf"),
        ({"optimizer": "adm"}, "--optimizer is 'adm'; did you mean adam"),
        ({"recipe": "papier"}, "no recipe 'papier'; did you mean paper"),
        ({"dropout": 1}, "not all true or false"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"switches": {"dropout": True}}, "no option 'switches'"),
    ],
)
def test_wrong_options_are_refused(sample: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        xtrain.train("simplecnn", sample, output=tmp_path / "run", progress=False, **options)
    assert not (tmp_path / "run").exists()


def test_an_ensemble_of_runs_and_paths(run: xtrain.Run, sample: Path, tmp_path: Path) -> None:
    other = xtrain.train("simplecnn-v1", sample, epochs=1, seed=1, output=tmp_path / "b", progress=False)
    exported = xtrain.export([run, str(other.folder)], str(tmp_path / "m.onnx"), member_weights="3,1", tta="dihedral")
    assert [member.weight for member in exported.card.members] == [0.75, 0.25] and exported.card.tta == "dihedral"
    for options, message in (
        ({"tta": "dihedrall"}, "--tta is 'dihedrall'"),
        ({"weights": "auto"}, "no option 'weights'; did you mean member_weights"),
        ({"explain": "yes"}, "--explain is 'yes'"),
        ({"model_version": ""}, "printable"),
    ):
        with pytest.raises(ConfigError, match=message):
            xtrain.export(run, tmp_path / "n.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one run"):
        xtrain.export([], tmp_path / "n.onnx")


def test_predictions_of_every_kind_of_input(model: Path, sample: Path, data_dir: Path) -> None:
    predictor = xtrain.load(model, device="cpu")
    assert isinstance(predictor, xtrain.Predictor)
    tiles = json.loads((data_dir / "tiles" / "labels.json").read_text())["identical_to_sample_test_row"]
    rows = read_npz(sample).splits["test"].images[list(tiles.values())]
    expected = predictor.predict(rows)
    paths = [data_dir / "tiles" / name for name in tiles]
    opened = [Image.open(path) for path in paths]
    shapes: list[tuple[Callable[[], Any], np.ndarray]] = [
        (lambda: paths, expected),
        (lambda: [str(path) for path in paths], expected),
        (lambda: opened, expected),
        (lambda: [paths[0], opened[1], opened[2].convert("RGBA")], expected),
        (lambda: paths[0], expected[:1]),
        (lambda: str(paths[0]), expected[:1]),
        (lambda: opened[0], expected[:1]),
        (lambda: [], expected[:0]),
    ]
    for make, wanted in shapes:
        got = predictor.predict(make())
        assert got.shape == wanted.shape and got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert predictor.classify(paths) == [predictor.card.classes[index] for index in expected.argmax(axis=1)]
    heatmaps = predictor.explain(paths)
    assert heatmaps.shape == (3, 28, 28) and heatmaps.min() >= 0 and heatmaps.max() <= 1
    for image in opened:
        image.close()


def test_arguments_of_other_libraries_are_plain_numbers(sample: Path, tmp_path: Path) -> None:
    """numpy's float is a Python float by inheritance: pickled into a checkpoint, it could not be read back."""
    run = xtrain.train(
        "simplecnn-v1",
        str(sample),
        epochs=np.int64(1),
        lr=np.float64(0.001),
        seed=np.uint8(3),
        data_dir=str(tmp_path),
        output=str(tmp_path / "run"),
        patience=None,
        progress=False,
    )
    assert checkpoint.load(run.folder).config.lr == 0.001
    exported = xtrain.export(run, tmp_path / "m.onnx", data=sample, data_dir=tmp_path, model_version=None, tta=None)
    assert exported.card.version == "1" and exported.card.members[0].seed == 3
    predictor = xtrain.load(exported.path, "cpu")
    assert xtrain.evaluate(predictor, sample, split=None).split == "test"
    with pytest.raises(ConfigError, match="device belongs to xtrain.load"):
        xtrain.evaluate(predictor, sample, device="cpu")
    for model in (None, Path("simplecnn"), 7, ["simplecnn"]):
        with pytest.raises(ConfigError, match="no model is called"):
            xtrain.train(model, sample, progress=False)  # type: ignore[arg-type]


def test_a_resumed_runs_configuration_is_todays(sample: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"progress": False, "patience": 20}
    xtrain.train("simplecnn-v1", sample, epochs=1, output=tmp_path / "run", **options)
    run = xtrain.train("simplecnn-v1", resume=tmp_path / "run", epochs=2, patience=21, progress=False)
    assert (run.config["epochs"], run.config["patience"], len(run.history)) == (2, 21, 2)
    (tmp_path / "run" / "summary.json").write_text('{"x": 1}')
    with pytest.raises(CheckpointError, match="damaged"):
        xtrain.open_run(tmp_path / "run")


def test_pictures_that_cannot_be_read(model: Path, tmp_path: Path) -> None:
    predictor = xtrain.load(model, device="cpu")
    (tmp_path / "text.png").write_text("not an image")
    for path in (tmp_path / "absent.png", tmp_path / "text.png", tmp_path):
        with pytest.raises(xtrain.XtrainError, match=str(path)):
            predictor.predict([path])
    with pytest.raises(ModelFileError):
        xtrain.load(tmp_path / "absent.onnx")


def test_figures_and_csv_are_those_of_the_commands(model: Path, command: Command, sample: Path, tmp_path: Path) -> None:
    predictor = xtrain.load(model, device="cpu")
    evaluation = xtrain.evaluate(predictor, sample)
    assert evaluation.as_json() == json.loads(command("xeval", model, sample, "--json").out)
    assert (evaluation.protocol, evaluation.split) == ("official", "test")
    assert xtrain.evaluate(str(model), str(sample), split="val").split == "val"
    scored = xtrain.score(predictor, sample, tmp_path / "a.csv")
    assert command("xscore", model, sample, "-o", tmp_path / "b.csv").code == 0
    assert scored.rows == 302 and (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with pytest.raises(xtrain.XtrainError, match="--overwrite"):
        xtrain.score(predictor, sample, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="no option 'splits'; did you mean split"):
        xtrain.evaluate(predictor, sample, splits="val")
    with pytest.raises(ConfigError, match="--split is 'tests'"):
        xtrain.evaluate(predictor, sample, split="tests")


def test_everything_public_is_documented() -> None:
    for name in xtrain.__all__:
        if name != "__version__":
            assert (getattr(xtrain, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError):
        xtrain.nothing  # noqa: B018


def test_a_users_script_is_type_checked(tmp_path: Path) -> None:
    """With the package's own types: what is right passes, what is wrong is found."""
    script = tmp_path / "script.py"
    script.write_text(
        "import xtrain\n"
        "run = xtrain.train('simplecnn', 'digits', epochs=1)\n"
        "accuracy: float = run.best.accuracy\n"
        "names: list[str] = xtrain.load('m.onnx').classify('a.png')\n"
        "wrong: int = xtrain.evaluate('m.onnx', 'digits').protocol\n"
    )
    words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--config-file", ""]
    words += ["--cache-dir", str(tmp_path / "cache"), str(script)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1 and "script.py:5" in errors[0] and "assignment" in errors[0], done.stdout
