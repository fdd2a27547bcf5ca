"""Reading an ONNX file's bytes, beside the onnx package, on whole files and on ones made to mislead."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.model import onnxfile
from serving.model.card import read_card
from serving.model.predictor import Predictor
from tests.conftest import Command
from xtrain.errors import ModelFileError


def test_properties_are_those_that_onnx_reads(sample_model: Path) -> None:
    contents = onnxfile.read(sample_model)
    assert contents.properties == {item.key: item.value for item in onnx.load(sample_model).metadata_props}
    assert not contents.external


def external(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_refused(sample_model: Path, tmp_path: Path) -> None:
    """Also where the file it points at lies ready."""
    path = external(tmp_path / "m.onnx", onnx.load(sample_model))
    assert (tmp_path / "weights.bin").stat().st_size > 1_000_000
    with pytest.raises(ModelFileError, match="external data"):
        Predictor(path)


def test_external_data_inside_an_attribute_and_an_inner_graph(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    x = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    for nodes in ([constant], [branch]):
        path = tmp_path / "m.onnx"
        path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [x], [y])).SerializeToString())
        assert onnxfile.read(path).external


def test_external_data_in_a_functions_default(tmp_path: Path) -> None:
    """An attribute of a function that its nodes refer to by name."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", ref_attr_name="weights", type=onnx.AttributeProto.TENSOR)
    function = helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 20)])
    function.attribute_proto.append(helper.make_attribute("weights", tensor))
    graph = helper.make_graph(
        [helper.make_node("f", [], ["y"], domain="own")],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    assert onnxfile.read(path).external


def test_numbers_that_other_readers_cut_short(sample_model: Path, tmp_path: Path) -> None:
    """A tag with bits above 32 is another field to readers that drop them."""
    content = sample_model.read_bytes()
    assert content[0] == 0x08  # field 1, the IR version
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes([0x88, 0x80, 0x80, 0x80, 0x10]) + content[1:])
    with pytest.raises(ModelFileError, match="no valid number"):
        onnxfile.read(path)


def test_every_cut_is_refused(sample_model: Path, tmp_path: Path) -> None:
    """No prefix of a file is taken for the file, and none raises anything else."""
    content = sample_model.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 300, 7), *np.linspace(300, len(content) - 1, 60).astype(int)]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            read_card(path)


def test_noise_is_refused(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    path = tmp_path / "noise.onnx"
    for _ in range(300):
        path.write_bytes(random.bytes(random.randint(1, 400)))
        with pytest.raises(ModelFileError):
            read_card(path)


def test_an_opset_of_the_future(sample_model: Path, tmp_path: Path) -> None:
    model = onnx.load(sample_model)
    model.opset_import[0].version = 999
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="onnxruntime cannot load it .*opset"):
        Predictor(tmp_path / "m.onnx")


def test_the_digest_beside_the_file(command: Command, sample_model: Path, tmp_path: Path) -> None:
    for name in ("sample.onnx", "sample.onnx.sha256"):
        (tmp_path / name).write_bytes((sample_model.parent / name).read_bytes())
    done = subprocess.run(["sha256sum", "-c", "sample.onnx.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "sample.onnx: OK\n"
    path = tmp_path / "sample.onnx"
    assert Predictor(path).digest == onnxfile.sha256(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    path.write_bytes(content)
    result = command("xexport", "show", path)
    assert result.code == 1 and "is not that of sample.onnx.sha256" in result.error
    with pytest.raises(ModelFileError, match="SHA-256"):
        Predictor(path)
    (tmp_path / "sample.onnx.sha256").write_text("")
    with pytest.raises(ModelFileError, match="SHA-256"):
        Predictor(path)
