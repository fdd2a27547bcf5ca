from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.export import export_runs
from export.options import ExportOptions
from serving.model.card_parts import Heatmap
from serving.model.devices import PROVIDERS
from serving.model.predictor import Predictor
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError, ModelFileError


def test_wrong_input_is_named(sample_model: Path) -> None:
    predictor = Predictor(sample_model)
    assert predictor.predict(np.zeros((0, 28, 28, 3), np.uint8)).shape == (0, 9)
    for wrong in (
        np.zeros((1, 28, 28, 3), np.float32),
        np.zeros((1, 3, 28, 28), np.uint8),
        np.zeros((28, 28, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match="uint8"):
            predictor.predict(wrong)


def test_large_inputs_are_run_in_parts(sample_model: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (600, 28, 28, 3)).astype(np.uint8)
    predictor = Predictor(sample_model)
    np.testing.assert_allclose(predictor.predict(images)[[0, 599]], predictor.predict(images[[0, 599]]), atol=1e-6)


def test_not_a_number_is_no_answer(sample_model: Path, tmp_path: Path) -> None:
    model = onnx.load(sample_model)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 4:
            values = np.full(tuple(weights.dims), np.nan, np.float32)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
            break
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ModelFileError, match="not finite"):
        Predictor(tmp_path / "broken.onnx").warm_up()


def test_files_that_cannot_be_trusted(sample_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        Predictor(tmp_path / "absent.onnx")
    half = tmp_path / "half.onnx"
    half.write_bytes(sample_model.read_bytes()[:50_000])
    with pytest.raises(ModelFileError, match="not an ONNX file .*ends too early"):
        Predictor(half)
    model = onnx.load(sample_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ModelFileError, match="has no card; it was not written by xexport"):
        Predictor(tmp_path / "bare.onnx")


def test_a_card_of_another_graph(sample_model: Path, tmp_path: Path) -> None:
    model = onnx.load(sample_model)
    card = Predictor(sample_model).card
    heatmap = Heatmap(name="heatmap", shape=("N", 1, 28, 28), range=(0.0, 1.0), of="", method="")
    for change, message in (
        ({"classes": card.classes[:8]}, "its output is not the card's"),
        ({"explain": heatmap}, "its heatmap is not the card's"),
        ({"input": replace(card.input, shape=("N", 32, 32, 3)), "references": None}, "its input is not the card's"),
    ):
        other = replace(card, **change)
        onnx.helper.set_model_props(model, {"card": other.to_json()})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ModelFileError, match=message):
            Predictor(tmp_path / "other.onnx")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_is_never_replaced_silently(sample_model: Path, device: str) -> None:
    from serving.model.devices import _has_driver

    try:
        assert Predictor(sample_model, device).provider == PROVIDERS[device]
    except ConfigError as error:
        assert str(error).startswith(f"--device {device}: ")
        assert device == "tensorrt" or not _has_driver()
    assert Predictor(sample_model, "cpu").provider == "CPUExecutionProvider"


def test_runs_are_filled_up_to_a_bucket(
    sample_run: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which plans anew for each size; the numbers are the same."""
    explaining = tmp_path / "explaining.onnx"
    export_runs([sample_run], explaining, ExportOptions(calibrate=False, explain=True))
    images = read_npz(sample).splits["test"].images[:40]
    plain, filling = Predictor(explaining, "cpu"), Predictor(explaining, "cpu", buckets=(1, 4, 16))
    assert plain.buckets == () and plain.max_run == 256 and filling.max_run == 16
    sizes: list[int] = []
    run = filling.session.run

    class Counting:
        def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            sizes.append(len(inputs["images"]))
            return list(run(outputs, inputs))

    monkeypatch.setattr(filling, "session", Counting())
    filling.warm_up()
    assert sizes == [16, 16, 1, 1, 4, 4, 16], "each size, and the eight reference images"
    for count, runs in ((1, [1]), (2, [4]), (4, [4]), (5, [16]), (40, [16, 16, 16])):
        sizes.clear()
        np.testing.assert_allclose(filling.predict(images[:count]), plain.predict(images[:count]), atol=1e-6)
        assert sizes == runs
        for got, expected in zip(
            filling.predict_and_explain(images[:count]), plain.predict_and_explain(images[:count]), strict=True
        ):
            np.testing.assert_allclose(got, expected, atol=1e-4)
