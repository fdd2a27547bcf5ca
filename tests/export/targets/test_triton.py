"""`--triton`: the folder against Triton's own protocol buffers, and its file against the model's answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.options import ExportOptions
from export.package import package_file
from export.targets import triton
from serving.model import onnxfile, signature
from serving.model.card import read_card
from serving.model.repository import ModelRepository
from tests.conftest import Command
from xtrain.errors import ConfigError, OutputError


def parsed(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_the_configuration_is_tritons_and_fits_the_graph(sample_model: Path, tmp_path: Path) -> None:
    (folder,) = package_file(sample_model, ExportOptions(triton=tmp_path / "models"))
    assert folder == tmp_path / "models" / "sample"
    config, card = parsed(folder), read_card(sample_model)
    assert config.name == folder.name and config.backend == "onnxruntime"
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (images,), (probabilities, *_) = session.get_inputs(), session.get_outputs()
    # Triton adds the batch to what is listed, and compares both with the graph.
    assert (config.input[0].name, list(config.input[0].dims)) == (images.name, images.shape[1:])
    assert (config.output[0].name, list(config.output[0].dims)) == (probabilities.name, probabilities.shape[1:])
    types = model_config_pb2.DataType.Value
    assert (config.input[0].data_type, config.output[0].data_type) == (types("TYPE_UINT8"), types("TYPE_FP32"))
    labels = (folder / config.output[0].label_filename).read_text().splitlines()
    assert labels == list(card.classes)
    for warm_up in config.model_warmup:
        assert 1 <= warm_up.batch_size <= config.max_batch_size
        tensor = warm_up.inputs[images.name]
        content = (folder / "warmup" / tensor.input_data_file).read_bytes()
        assert card.references and content == card.references.pixels(card.shape)[0].tobytes()
        pixels = np.frombuffer(content, np.uint8).reshape(1, *tensor.dims)
        answer = session.run(None, {images.name: pixels})[0][0]
        np.testing.assert_allclose(answer, card.references.probabilities[0], atol=1e-5)
    assert config.parameters["xtrain_sha256"].string_value == Path(f"{sample_model}.sha256").read_text().split()[0]


def test_without_references_it_warms_up_with_zeros_and_odd_names_are_quoted(sample_model: Path) -> None:
    card = replace(read_card(sample_model), references=None, version='1.0 "beta"\\ é')
    config = text_format.Parse(triton.config(card, "0" * 64), model_config_pb2.ModelConfig())
    assert all(one.inputs["images"].zero_data for one in config.model_warmup)
    assert config.parameters["xtrain_version"].string_value == card.version


def test_what_is_there_is_not_lost(sample_model: Path, tmp_path: Path) -> None:
    options = ExportOptions(triton=tmp_path)
    package_file(sample_model, options)
    with pytest.raises(OutputError, match="--overwrite"):
        package_file(sample_model, options)
    package_file(sample_model, replace(options, overwrite=True))
    (tmp_path / "sample" / "2").mkdir()
    (tmp_path / "sample" / "2" / "model.plan").write_text("of somebody else")
    with pytest.raises(OutputError, match="which no export wrote"):
        package_file(sample_model, replace(options, overwrite=True))
    assert (tmp_path / "sample" / "2" / "model.plan").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_the_folder_is_also_xserves_with_its_signature(sample_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(sample_model, tmp_path / "sample.onnx"))
    signature.sidecar(model).write_bytes(bytes(64))
    (folder,) = package_file(model, ExportOptions(triton=tmp_path / "models"))
    assert (folder / "1" / "model.onnx.sig").read_bytes() == bytes(64)
    (entry,) = ModelRepository(tmp_path / "models").entries()
    assert (entry.name, entry.version, entry.fault) == ("sample", "1", "")
    assert onnxfile.verify(entry.path) == onnxfile.sha256(model)
    with pytest.raises(ConfigError, match="lies inside --triton"):
        package_file(entry.path, ExportOptions(triton=tmp_path / "models", overwrite=True))
    assert entry.path.is_file()


def test_names_that_are_no_folder(sample_model: Path, tmp_path: Path) -> None:
    for name in ("a/b", "..", "-x", "", "a b"):
        with pytest.raises(ConfigError, match="--name"):
            triton.write(sample_model, replace(read_card(sample_model), name=name), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "is exported already; add --triton"),
        (["-o", "other.onnx"], 2, "leave -o out"),
        (["--tta", "dihedral", "--triton", "models"], 2, "--tta needs the runs"),
        (["--wsinfer", "slides", "--spacing-um", "4"], 2, "needs the runs"),
    ],
)
def test_what_an_exported_file_does_not_take(
    sample_model: Path, command: Command, options: list[str], code: int, message: str
) -> None:
    result = command("xexport", str(sample_model), *options)
    assert result.code == code and message in result.error
