"""The temperature: found where it is known, harmless to the order of classes, and told in the card."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from export.calibration import cross_validate, fit_temperature
from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from tests.conftest import Command, make_npz, needs_real_data, train
from xtrain.data.datasets import read_npz
from xtrain.metrics import evaluate


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    """Labels drawn from softmax(logits / T) make T the optimum, up to sampling."""
    random = np.random.RandomState(1)
    logits = random.normal(0, 3, (40_000, 5))
    right = softmax(logits / temperature, axis=1)
    labels = (right.cumsum(axis=1) < random.rand(40_000, 1)).sum(axis=1)
    assert fit_temperature(labels, softmax(logits, axis=1)) == pytest.approx(temperature, rel=0.03)


def test_it_lowers_the_loss_and_stays_within_bounds() -> None:
    labels = np.array([0, 1, 1, 0])
    wrong = np.eye(2)[1 - labels] * 0.98 + 0.01
    assert fit_temperature(labels, wrong) == pytest.approx(10, rel=1e-3)
    assert fit_temperature(labels, np.eye(2)[labels] * 0.2 + 0.4) == 1.0, "all right: nothing to fit"


def test_it_is_kept_where_held_out_rows_gain() -> None:
    random = np.random.RandomState(3)
    labels = random.randint(0, 3, 400)
    overconfident = softmax((np.eye(3)[labels] * 1.5 + random.randn(400, 3)) * 4, axis=1)
    gain = cross_validate(labels, overconfident)
    assert gain is not None and gain.better and gain.ece_after < gain.ece_before / 2
    assert cross_validate(labels[:9], overconfident[:9]) is None


def test_it_is_left_out_where_there_is_nothing_to_gain() -> None:
    """Labels drawn from the very probabilities: on the rows themselves a temperature always lowers the log loss."""
    kept = 0
    for seed in range(20):
        random = np.random.RandomState(seed)
        honest = softmax(random.randn(60, 3) * 2, axis=1)
        labels = (honest.cumsum(axis=1) < random.rand(60, 1)).sum(axis=1)
        held_out = cross_validate(labels, honest)
        assert held_out is not None
        kept += held_out.better
    assert kept <= 5


def test_an_export_says_why_there_is_no_temperature(tiny: Path, tmp_path: Path, command: Command) -> None:
    small = make_npz(tmp_path / "small.npz", rows=3)
    run = train(tmp_path / "run", "simplecnn", "--data", small, "--epochs", 1)
    result = command("xexport", run, "-o", tmp_path / "m.onnx")
    assert result.code == 0 and "no temperature: 9 validation rows are too few for one" in result.out
    card = Predictor(tmp_path / "m.onnx").card
    assert card.calibration is None and card.calibration_note == "no temperature: 9 validation rows are too few for one"
    assert "No temperature: 9 validation rows are too few" in (tmp_path / "m.md").read_text()


@pytest.fixture(scope="module")
def overconfident_run(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """Twelve epochs without augmentation: sure of itself, and a temperature lowers the error of held-out rows too."""
    options = ["--data", sample, "--augment", "none", "--epochs", 12]
    return train(tmp_path_factory.mktemp("overconfident") / "run", "simplecnn-v1", *options)


@needs_real_data
def test_the_file_is_calibrated_and_ranks_as_before(overconfident_run: Path, sample: Path, tmp_path: Path) -> None:
    done = export_runs([overconfident_run], tmp_path / "m.onnx")
    export_runs([overconfident_run], tmp_path / "raw.onnx", ExportOptions(calibrate=False))
    calibrated, raw = Predictor(tmp_path / "m.onnx"), Predictor(tmp_path / "raw.onnx")
    fit = calibrated.card.calibration
    assert fit is not None and raw.card.calibration is None
    assert fit.log_loss_after <= fit.log_loss_before and fit.rows == 150
    images, labels = read_npz(sample).splits["test"].images, read_npz(sample).splits["test"].labels
    assert labels is not None
    before, after = raw.predict(images), calibrated.predict(images)
    assert np.abs(before - after).max() > 0.01
    assert (np.diff(np.take_along_axis(after, before.argsort(axis=1), axis=1), axis=1) > -1e-6).all()
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    logs = np.log(np.maximum(before, 1e-30))
    np.testing.assert_allclose(after, softmax(logs / fit.temperature, axis=1), atol=1e-4)
    # The card's figures are those of the file on the validation rows.
    val = read_npz(sample).splits["val"]
    assert val.labels is not None
    figures = evaluate(val.labels, calibrated.predict(val.images[:]))
    assert done.card.metrics[0].metrics.ece == fit.ece_after == pytest.approx(figures.ece)
    assert fit.ece_before == pytest.approx(evaluate(val.labels, raw.predict(val.images[:])).ece, abs=1e-6)
