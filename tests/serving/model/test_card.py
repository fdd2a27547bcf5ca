import base64
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.export import export_runs
from export.options import ExportOptions
from serving.model.card import MAX_BYTES, Card
from serving.model.predictor import Predictor
from xtrain.data.datasets import read_npz
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
        ({"format": 1}, "has format 1, this version reads 2 and 3"),
        ({"format": True}, "has format True"),
        ({"classes": []}, "classes: Tuple should have at least 1 item"),
        ({"classes": [1, 2]}, "classes.0: Input should be a valid string"),
        ({"name": None}, "name: Input should be a valid string"),
        ({"members": []}, "members: Tuple should have at least 1 item"),
        ({"members": [{}]}, "members.0.architecture: Field required"),
        ({"data": {}}, "data.name: Field required"),
        ({"parity": {}}, "parity.images: Field required"),
        ({"data": {"rows": {"train": -1}}}, "data.rows.train"),
        ({"tta": "crops"}, "tta: Input should be 'dihedral'"),
        ({"precision": "int8"}, "precision: Input should be 'fp32' or 'fp16'"),
        ({"explain": True}, "explain: "),
        ({"input": {"name": "images", "shape": ["N", 28, 28], "dtype": "uint8", "colour": "RGB"}}, "input.shape"),
        ({"input": {"name": "images", "shape": ["N", 28, 28, 4], "dtype": "uint8", "colour": "RGB"}}, "input.shape.3"),
        ({"input": {"name": "images", "shape": ["N", 28, 28, 3], "dtype": "float32", "colour": "RGB"}}, "input.dtype"),
    ],
)
def test_faults_are_named(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    if message == "data.rows.train":
        change = {"data": {**values["data"], **change["data"]}}
    with pytest.raises(ModelFileError, match=re.escape(message)):
        Card.from_json(json.dumps({**values, **change}))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, 1.5, "1"])
def test_numbers_that_no_reader_holds(values: dict[str, Any], seed: object) -> None:
    values["members"][0]["seed"] = seed
    with pytest.raises(ModelFileError, match=re.escape("members.0.seed")):
        Card.from_json(json.dumps(values))


def test_a_missing_part_is_named(values: dict[str, Any]) -> None:
    del values["data"]
    with pytest.raises(ModelFileError, match="data: Field required"):
        Card.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '"card"', "[" * 1_000_000, '{"format": 3, "data": ' + '{"a":' * 200_000, "NaN", "\udcff"],
    ids=["empty", "list", "cut", "null", "text", "deep list", "deep object", "NaN", "surrogate"],
)
def test_no_text_is_a_crash(text: str) -> None:
    with pytest.raises(ModelFileError):
        Card.from_json(text)


def test_a_huge_card_is_refused_unread() -> None:
    with pytest.raises(ModelFileError, match="longer than"):
        Card.from_json(" " * (MAX_BYTES + 1))


def test_keys_of_a_newer_version_are_ignored(values: dict[str, Any]) -> None:
    expected = Card.from_json(json.dumps(values))
    values["surprise"] = 1
    values["data"]["surprise"] = {"a": []}
    values["members"][0]["surprise"] = None
    assert Card.from_json(json.dumps(values)) == expected


def test_the_format_before_is_read(values: dict[str, Any]) -> None:
    """Format 2: switches were called options, metrics were flat, and there were no reference images."""
    expected = Card.from_json(json.dumps({**values, "references": None}))
    old = {**values, "format": 2}
    del old["references"]
    old["members"] = [
        {"options" if key == "switches" else key: value for key, value in member.items()}
        for member in values["members"]
    ]
    old["metrics"] = [{"protocol": m["protocol"], "split": m["split"], **m["metrics"]} for m in values["metrics"]]
    assert Card.from_json(json.dumps(old)) == expected


class TestReferences:
    def test_they_are_eight_validation_images_with_what_the_file_answers(
        self, sample_model: Path, sample: Path
    ) -> None:
        predictor = Predictor(sample_model, "cpu")
        references = predictor.card.references
        assert references is not None and references.count == 8
        images = references.pixels(predictor.card.shape)
        val = read_npz(sample).splits["val"].images[:]
        assert all((val == image).all(axis=(1, 2, 3)).any() for image in images)
        np.testing.assert_allclose(predictor.predict(images), references.probabilities, atol=1e-5)
        difference = predictor.check_references()
        assert difference is not None and difference < 1e-5

    def test_a_server_that_computes_something_else_does_not_start(self, sample_model: Path, tmp_path: Path) -> None:
        """One weight of the graph differs from the file that was exported, its card and digest do not."""
        model = onnx.load(sample_model)
        weights = next(item for item in model.graph.initializer if len(item.dims) == 4)
        values = onnx.numpy_helper.to_array(weights) * 1.5
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ModelFileError, match="reference images give probabilities that differ by"):
            Predictor(tmp_path / "other.onnx", "cpu").warm_up()

    def test_they_can_be_left_out(self, sample_run: Path, tmp_path: Path) -> None:
        export_runs([sample_run], tmp_path / "m.onnx", ExportOptions(references=False))
        predictor = Predictor(tmp_path / "m.onnx", "cpu")
        assert predictor.card.references is None and predictor.check_references() is None
        assert b"references" in (tmp_path / "m.onnx").read_bytes()

    @pytest.mark.parametrize("rows", [[], [[0.5] * 9] * 3, [[]] * 8, [[0.5] * 9] * 7 + [[0.5] * 8]])
    def test_every_image_has_its_probabilities(self, values: dict[str, Any], rows: list[list[float]]) -> None:
        values["references"]["probabilities"] = rows
        with pytest.raises(ModelFileError, match="no probability for every class"):
            Card.from_json(json.dumps(values))

    def test_packed_pixels_cannot_surprise(self, values: dict[str, Any]) -> None:
        shape = tuple(values["input"]["shape"][1:])
        bomb = base64.b64encode(zlib.compress(bytes(300_000_000))).decode()
        for images in (bomb, "", "!", base64.b64encode(b"x").decode(), base64.b64encode(zlib.compress(b"x")).decode()):
            values["references"]["images"] = images
            with pytest.raises(ModelFileError, match="card is damaged"):
                Card.from_json(json.dumps(values))
        assert math.prod(shape) * 8 < 20_000
        for count in (0, 65, -1):
            values["references"]["count"] = count
            with pytest.raises(ModelFileError, match=r"references\.count"):
                Card.from_json(json.dumps(values))
