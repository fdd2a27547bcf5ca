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
        ({"classes": card.classes[:8], "references": None}, "its output is not the card's"),
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
    from serving.model.devices import has_driver

    try:
        assert Predictor(sample_model, device).provider == PROVIDERS[device]
    except ConfigError as error:
        assert str(error).startswith(f"--device {device}: ")
        assert device == "tensorrt" or not has_driver()
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


def test_graphs_that_cannot_answer(sample_model: Path, tmp_path: Path) -> None:
    """A fixed number of images, an output of another type, an error of the runtime: each is named, none is a crash."""

    def saved(model: onnx.ModelProto) -> Path:
        onnx.save(model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    model = onnx.load(sample_model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelFileError, match="number of images is fixed"):
        Predictor(saved(model), "cpu")
    model = onnx.load(sample_model)
    model.graph.node.append(onnx.helper.make_node("Cast", ["probabilities"], ["text"], to=onnx.TensorProto.STRING))
    model.graph.output[0].name = "text"
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    with pytest.raises(ModelFileError, match="its output is not the card's"):
        Predictor(saved(model), "cpu")
    model = onnx.load(sample_model)
    (last,) = [node for node in model.graph.node if "probabilities" in node.output]
    last.output[0] = "before"
    shape = onnx.numpy_helper.from_array(np.array([7, 9], np.int64), "seven")  # fits no single image
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "seven"], ["probabilities"]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for name, value in (("N", None), (None, 9)):
        dimension = model.graph.output[0].type.tensor_type.shape.dim.add()
        if name:
            dimension.dim_param = name
        else:
            dimension.dim_value = value
    with pytest.raises(ModelFileError, match="cannot run it"):
        Predictor(saved(model), "cpu").warm_up()
    with pytest.raises(ModelFileError, match="cannot be read"):
        Predictor("a" * 300 + ".onnx", "cpu")


def test_an_unknown_device_is_not_the_cpu(sample_model: Path) -> None:
    for device in ("gpu", "CUDA", "", None):
        with pytest.raises(ConfigError, match="is unknown"):
            Predictor(sample_model, device)  # type: ignore[arg-type]


def test_a_list_of_arrays_is_not_guessed_at(sample_model: Path) -> None:
    with pytest.raises(ValueError, match="np.stack"):
        Predictor(sample_model, "cpu").predict([np.zeros((28, 28, 3), np.uint8)])  # type: ignore[list-item]
