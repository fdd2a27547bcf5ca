"""`xtrain list`: every model, recipe and data set, with where each value comes from."""

import json

import pytest

from tests.conftest import Command
from training.models.registry import ARCHITECTURES, RECIPES, build
from xtrain.data.catalog import NAMES


def test_the_listing_is_complete(command: Command) -> None:
    shown = json.loads(command("xtrain", "list", "--json").out)
    assert [row["name"] for row in shown["models"]] == list(ARCHITECTURES)
    assert {row["name"] for row in shown["recipes"]} == set(RECIPES)
    assert [row["name"] for row in shown["data"]] == list(NAMES)
    assert next(row for row in shown["data"] if row["name"] == "pathmnist")["images"] == 107_180
    for row in shown["recipes"]:
        assert row["models"] and row["summary"]
        for name, setting in row["settings"].items():
            source = setting["source"]
            assert source.startswith(("paper", "authors' code", "ours")), (row["name"], name, source)
    (resnet,) = [row for row in shown["recipes"] if row["name"] == "paper" and "resnet152" in row["models"]]
    assert "--protocol pooled" in resnet["note"]


@pytest.mark.parametrize("name", ["simplecnn", "alexnet-bn", "resnet18"])
def test_parameters_are_counted_rightly(name: str, command: Command) -> None:
    shown = json.loads(command("xtrain", "list", "models", "--json").out)["models"]
    size = {"simplecnn": 28, "alexnet-bn": 224, "resnet18": 224}[name]
    network = build(name, channels=3, classes=9, image_size=size)
    (row,) = [row for row in shown if row["name"] == name]
    assert row["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_it_is_text_for_a_person(command: Command) -> None:
    text = command("xtrain", "list").out
    for word in (*ARCHITECTURES, *RECIPES, *NAMES, "table 4", "ours"):
        assert word in text, word
    assert command("xtrain", "list", "modells").code == 2
