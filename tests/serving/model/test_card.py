import json
from pathlib import Path
from typing import Any

import pytest

from serving.model.card import Card
from serving.model.predictor import Predictor
from xtrain.errors import ModelFileError


@pytest.fixture
def values(sample_model: Path) -> dict[str, Any]:
    return dict(json.loads(Predictor(sample_model).card.to_json()))


def test_round_trip(sample_model: Path) -> None:
    card = Predictor(sample_model).card
    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "has format 1, this version reads 2"),
        ({"classes": []}, "no list of class names"),
        ({"classes": [1, 2]}, "no list of class names"),
        ({"name": None}, "name of type NoneType"),
        ({"surprise": 1}, "surprise"),
        ({"members": []}, "names no members"),
        ({"tta": "crops"}, "tta 'crops'"),
        ({"precision": "int8"}, "precision 'int8'"),
        ({"explain": True}, "explain of type bool"),
        ({"input": {"shape": ["N", 28, 28], "dtype": "uint8"}}, "input shape"),
        ({"input": {"shape": ["N", 28, 28, 4], "dtype": "uint8"}}, "input shape"),
        ({"input": {"shape": ["N", 28, 28, 3], "dtype": "float32"}}, "input dtype 'float32'"),
    ],
)
def test_faults_are_named(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Card.from_json(json.dumps({**values, **change}))


def test_a_missing_field(values: dict[str, Any]) -> None:
    del values["data"]
    with pytest.raises(ModelFileError, match="data"):
        Card.from_json(json.dumps(values))
    for text in ("", "[]", "{"):
        with pytest.raises(ModelFileError):
            Card.from_json(text)
