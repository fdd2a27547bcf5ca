"""The server's settings: from the environment, to the environment, and out of range."""

from dataclasses import fields
from pathlib import Path

import onnx
import pytest

from serving.model.devices import cuda_options, tensorrt_options, usable_cores
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
    assert set(described(Settings)) == {item.name for item in fields(Settings)} - {"worker"}  # no option


def test_workers_share_what_one_server_may_take() -> None:
    mib = 2**20
    whole = Settings(
        workers=4, threads=0, memory_budget=1024 * mib, max_queue=10, max_connections=9, gpu_memory=8 * mib
    )
    parts = [whole.of_worker(index) for index in range(1, 5)]
    assert [part.worker for part in parts] == [1, 2, 3, 4]
    assert {part.memory_budget for part in parts} == {256 * mib} and {part.max_queue for part in parts} == {3}
    assert {part.max_connections for part in parts} == {3} and {part.gpu_memory for part in parts} == {2 * mib}
    assert all(1 <= part.threads <= usable_cores() for part in parts)
    # Never less than a body of the largest size and what it is unpacked to.
    assert Settings(workers=64).of_worker(1).memory_budget == 128 * mib
    assert Settings().of_worker(1) == Settings()


def test_each_gpu_has_its_workers() -> None:
    settings = Settings(devices="2,0", workers=2)
    placed = [settings.of_worker(index).placement for index in range(1, settings.worker_count + 1)]
    assert [(one.device, one.gpu) for one in placed] == [("cuda", 2), ("cuda", 0), ("cuda", 2), ("cuda", 0)]
    assert cuda_options(placed[0], "fp32")["device_id"] == "2" and tensorrt_options(placed[1], None)["device_id"] == "0"
    assert "device_id" not in cuda_options(Settings().placement, "fp32")
    assert Settings(devices="1", device="tensorrt").placement.device == "tensorrt"
    assert [Settings(devices="cpu:3").of_worker(index).placement.device for index in (1, 2, 3)] == ["cpu"] * 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", ""], 2, "--host '' is no address"),
        (["--host", "no.such.host.invalid"], 2, "is no address"),
        (["--host", "192.0.2.1"], 1, "choose another --host"),
        (["--timeout", "nan"], 2, "--timeout is nan; it must be a finite number"),
        (["--max-delay-ms", "1e400"], 2, "--max-delay-ms is inf; it must be a finite number"),
        (["--max-batch", "0"], 2, "--max-batch is 0; it must be at least 1"),
        (["--workers", "256", "--devices", "cpu:256"], 2, "ask for 65536 processes; this machine takes"),
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
