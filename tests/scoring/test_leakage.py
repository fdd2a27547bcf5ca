"""Figures of rows that a model was trained on: found by their pixels in any file, layout and order."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xtrain
from export.export import export_runs
from serving.model.card import Card, read_card
from serving.model.predictor import Predictor
from serving.model.training_rows import EXACT_ROWS, MAX_ROWS, TrainingRows
from tests.conftest import Command
from tests.scoring.test_score import kaggle_model  # noqa: F401
from training.runs import checkpoint
from xtrain.data.datasets import read_npz
from xtrain.data.digests import row_digests
from xtrain.errors import ConfigError, ModelFileError


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


def resaved(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays in another order, so that the file's md5 is another."""
    return dict(reversed(arrays.items()))


def other_layout(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The training rows, in another order, as the test rows of a file in Keras's layout."""
    order = np.random.RandomState(0).permutation(len(arrays["train_images"]))
    return {"x_test": arrays["train_images"][order], "y_test": arrays["train_labels"][order]}


def training_rows_alone(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: arrays[key] for key in ("train_images", "train_labels")}


def test_the_run_and_the_card_know_the_training_rows(sample_run: Path, sample_model: Path, sample: Path) -> None:
    digests = row_digests(read_npz(sample).splits["train"].images)
    stored = checkpoint.load(sample_run).training_rows
    assert stored is not None and (stored.numpy().view(np.uint64) == digests).all()
    rows = read_card(sample_model).training_rows
    assert rows is not None and rows.method == "exact" and rows.contains(digests).all()
    assert not rows.contains(row_digests(read_npz(sample).splits["test"].images)).any()


def test_a_saved_again_file_is_measured_on_its_test_rows(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    np.savez_compressed(tmp_path / "again.npz", **arrays_of(sample))
    result = command("xeval", sample_model, tmp_path / "again.npz")
    assert result.code == 0 and "official protocol" in result.out and "trained on" not in result.out


@pytest.mark.parametrize(
    ("make", "arguments", "share"),
    [
        (resaved, ["--protocol", "pooled"], None),
        (other_layout, [], "850 of these 850 images (100.0%)"),
        (training_rows_alone, ["--split", "val"], "170 of these 170 images (100.0%)"),
        (training_rows_alone, [], "850 of these 850 images (100.0%)"),
        (resaved, ["--split", "all"], "850 of these 1302 images (65.3%)"),
    ],
)
def test_training_rows_are_refused_and_counted(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path, make: object, arguments: list[str], share: str
) -> None:
    data = tmp_path / "other.npz"
    np.savez(data, **make(arrays_of(sample)))  # type: ignore[operator]
    result = command("xeval", sample_model, data, *arguments)
    assert result.code == 1 and "the model was trained on" in result.error and (share or "") in result.error
    result = command("xeval", sample_model, data, *arguments, "--allow-overlap")
    assert result.code == 0 and "the model was trained on" in result.out.splitlines()[1]
    with pytest.raises(ConfigError, match="leave it out"):
        xtrain.score(sample_model, data, tmp_path / "out.csv", allow_overlap=True)
    scored = command("xscore", sample_model, data, *arguments, "-o", tmp_path / "out.csv")
    assert scored.code == 0 and "the model was trained on" in scored.out


def test_the_training_split_itself_may_be_measured(command: Command, sample_model: Path, sample: Path) -> None:
    result = command("xeval", sample_model, sample, "--split", "train")
    assert result.code == 0 and "850 of these 850" in result.out and "train split" in result.out


def test_what_is_not_recorded_is_said(sample_model: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(sample_model)
    card: Card = replace(predictor.card, training_rows=None)
    monkeypatch.setattr(predictor, "card", card)
    evaluation = xtrain.evaluate(predictor, sample)
    assert evaluation.seen is None and "is not recorded" in evaluation.describe()
    assert evaluation.as_json()["seen_in_training"] is None


def test_an_old_checkpoint_gives_a_card_that_does_not_know(sample_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", replace(checkpoint.load(sample_run), training_rows=None))
    assert export_runs([tmp_path / "run"], tmp_path / "old.onnx").card.training_rows is None


def test_many_rows_are_a_bloom_filter_without_misses() -> None:
    random = np.random.RandomState(0)
    inside = random.randint(0, 2**63, EXACT_ROWS + 50_000).astype(np.uint64)
    outside = random.randint(0, 2**63, 200_000).astype(np.uint64) | np.uint64(2**63)
    rows = TrainingRows.make([inside[:90_000], inside[80_000:]])
    assert rows is not None and rows.method == "bloom" and rows.count == len(inside)
    rows.check()
    assert rows.contains(inside).all() and rows.contains(outside).mean() < 1e-3
    assert len(rows.content) < 3 * len(inside)


def test_a_card_of_too_many_rows_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.model.training_rows.MAX_ROWS", 10)
    assert TrainingRows.make([np.arange(11, dtype=np.uint64)]) is None and MAX_ROWS > 10


@pytest.mark.parametrize(
    "rows",
    [
        {"count": 2, "method": "exact", "content": "AAAA"},
        {"count": 0, "method": "bloom", "content": ""},
        {"count": 1, "method": "exact", "content": "no base64!"},
        {"count": -1, "method": "exact", "content": ""},
        {"count": 10**9, "method": "bloom", "content": ""},
    ],
)
def test_rows_of_a_stranger_are_checked_when_the_card_is_read(sample_model: Path, rows: dict[str, object]) -> None:
    values = {**read_card(sample_model).as_json(), "training_rows": rows}
    with pytest.raises(ModelFileError, match="export the model again"):
        Card.from_json(json.dumps(values))
