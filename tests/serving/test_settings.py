"""The server's settings: from the environment, to the environment, and out of range."""

from dataclasses import fields
from pathlib import Path

import onnx
import pytest

from serving.settings import Settings
from tests.conftest import Command
from xtrain.errors import ConfigError
from xtrain.options import described, from_environment, to_environment


def test_they_come_from_the_environment() -> None:
    assert from_environment(Settings, {}) == Settings()
    given = {"XTRAIN_MAX_BATCH": "8", "XTRAIN_TIMEOUT": "2.5", "XTRAIN_MAX_DELAY_MS": "0", "XTRAIN_MODEL": "m.onnx"}
    expected = Settings(model=Path("m.onnx"), max_batch=8, timeout=2.5, max_delay_ms=0)
    assert from_environment(Settings, given) == expected
    assert from_environment(Settings, to_environment(expected)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BATCH", "x"),
        ("MAX_QUEUE", "0"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("TIMEOUT", "0"),
        ("MAX_BATCH", "1.5"),
        ("THREADS", "100000"),
        ("DEVICE", "tpu"),
    ],
)
def test_wrong_values_name_their_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"XTRAIN_{name}"):
        from_environment(Settings, {f"XTRAIN_{name}": value})


def test_every_setting_is_described() -> None:
    assert set(described(Settings)) == {item.name for item in fields(Settings)}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", ""], 2, "--host '' is no address"),
        (["--host", "no.such.host.invalid"], 2, "is no address"),
        (["--host", "192.0.2.1"], 1, "choose another --host"),
        (["--timeout", "nan"], 2, "--timeout is nan; it must be a finite number"),
        (["--max-delay-ms", "1e400"], 2, "--max-delay-ms is inf; it must be a finite number"),
        (["--max-batch", "0"], 2, "--max-batch is 0; it must be at least 1"),
    ],
)
def test_wrong_options_start_no_server(
    command: Command, sample_model: Path, arguments: list[str], code: int, message: str
) -> None:
    result = command("xserve", sample_model, *arguments)
    assert result.code == code and message in result.error


def test_a_model_that_computes_something_else_starts_no_server(
    command: Command, sample_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(sample_model)
    weights = next(item for item in model.graph.initializer if len(item.dims) == 4)
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.5, weights.name))
    onnx.save(model, tmp_path / "other.onnx")
    result = command("xserve", tmp_path / "other.onnx", "--port", 3999)
    assert result.code == 1 and "reference images give probabilities that differ" in result.error
