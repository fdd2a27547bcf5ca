"""The server's settings: from the environment, to the environment, and out of range."""

from dataclasses import fields
from pathlib import Path

import pytest

from serving.settings import Settings
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
