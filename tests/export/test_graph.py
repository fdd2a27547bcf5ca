"""What members share is computed once, views are averaged, fp16 stays inside."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.export import export_runs
from export.graph import Ensemble
from export.options import ExportOptions
from export.plan import check_size
from export.trace import trace
from export.weigh import make_ensemble
from serving.model.predictor import Predictor
from tests.conftest import Command, make_npz, train
from training.models.classifier import Classifier, ModelSpec
from training.runs import checkpoint
from xtrain.data.datasets import read_npz
from xtrain.errors import ExportError


def classifier(name: str, size: int, mean: float = 0.5) -> Classifier:
    classes = tuple("abcd")
    return Classifier(ModelSpec(name, {}, classes, (28, 28, 3), size, None, (mean,) * 3, (0.2,) * 3))


def count(model: onnx.ModelProto, kind: str) -> int:
    return sum(node.op_type == kind for node in model.graph.node)


@pytest.mark.parametrize(
    ("members", "resized", "normalised"),
    [
        ([("simplecnn", 36, 0.5)] * 3, 1, 1),
        ([("simplecnn", 36, 0.5), ("simplecnn-v1", 36, 0.4)], 1, 2),
        ([("simplecnn", 36, 0.5), ("simplecnn-v1", 40, 0.5)], 2, 2),
        ([("simplecnn", 28, 0.5), ("simplecnn-v1", 28, 0.5)], 0, 1),
    ],
)
def test_what_members_share_is_computed_once(
    members: list[tuple[str, int, float]], resized: int, normalised: int
) -> None:
    model = trace(Ensemble([classifier(*member) for member in members]).eval(), (28, 28, 3))
    assert count(model, "Cast") == 1 and count(model, "Resize") == resized and count(model, "Sub") == normalised


def test_views_are_averaged(sample_run: Path, sample: Path, tmp_path: Path) -> None:
    export_runs([sample_run], tmp_path / "plain.onnx", ExportOptions(calibrate=False))
    done = export_runs([sample_run], tmp_path / "tta.onnx", ExportOptions(calibrate=False, tta="dihedral"))
    assert done.card.tta == "dihedral" and done.card.views == 8
    plain, averaged = Predictor(tmp_path / "plain.onnx"), Predictor(tmp_path / "tta.onnx")
    images = read_npz(sample).splits["test"].images[:50]
    views = [np.rot90(images[:, :, ::flip], turns, (1, 2)) for turns in range(4) for flip in (1, -1)]
    expected = np.mean([plain.predict(np.ascontiguousarray(view)) for view in views], axis=0)
    np.testing.assert_allclose(averaged.predict(images), expected, atol=1e-6)
    assert np.abs(expected - plain.predict(images)).max() > 0.01
    assert averaged.predict(images[:1]).shape == (1, 9)


def test_quarter_turns_need_square_images(command: Command, tmp_path: Path) -> None:
    digits = read_npz(make_npz(tmp_path / "square.npz"))
    oblong = {f"{name}_images": digits.splits[name].images[:, :20, :, 0] for name in ("train", "val", "test")}
    data = make_npz(tmp_path / "oblong.npz", **oblong)
    run = train(tmp_path / "run", "simplecnn-v1", "--data", data, "--epochs", 1, "--image-size", 28)
    result = command("xexport", run, "-o", tmp_path / "m.onnx", "--tta", "dihedral")
    assert result.code == 1 and "square images, not 20x28" in result.error and not (tmp_path / "m.onnx").exists()


def test_half_precision_stays_inside(sample_run: Path, sample: Path, tmp_path: Path) -> None:
    done = export_runs([sample_run], tmp_path / "half.onnx", ExportOptions(precision="fp16", explain=True))
    export_runs([sample_run], tmp_path / "full.onnx", ExportOptions(explain=True))
    half, full = Predictor(tmp_path / "half.onnx"), Predictor(tmp_path / "full.onnx")
    assert done.card.precision == "fp16" and 1e-6 < done.parity.max_difference <= 5e-3
    assert half.path.stat().st_size < 0.6 * full.path.stat().st_size
    assert [item.type for item in half.session.get_inputs()] == ["tensor(uint8)"]
    assert {item.type for item in half.session.get_outputs()} == {"tensor(float)"}
    weights = [tensor for tensor in onnx.load(half.path).graph.initializer if np.prod(tensor.dims) > 10_000]
    kinds = {tensor.data_type for tensor in weights}
    assert kinds == {onnx.TensorProto.FLOAT16}
    images = read_npz(sample).splits["test"].images
    got, heatmaps = half.predict_and_explain(images)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    assert (got.argmax(1) == full.predict(images).argmax(1)).mean() > 0.99
    assert np.isfinite(heatmaps).all()


def test_too_many_weights_for_one_file(sample_run: Path) -> None:
    """The check reads sizes only, so the networks need no memory."""

    class Vast(checkpoint.Checkpoint):
        def classifier(self) -> Classifier:
            with torch.device("meta"):
                return Classifier(ModelSpec("resnet152", {}, tuple("ab"), (28, 28, 3), 64, None, (0.5,) * 3, (1,) * 3))

    best = Vast(**checkpoint.load(sample_run).__dict__)
    with pytest.raises(ExportError, match=r"2\.3 GB and one ONNX file holds 2\.1 GB"):
        check_size(make_ensemble([best] * 10, None, ExportOptions()), "fp32")
    check_size(make_ensemble([best] * 10, None, ExportOptions()), "fp16")
