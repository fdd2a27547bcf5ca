import json
from pathlib import Path

import pytest

from training.config import TrainConfig, read_config, resolve
from training.models.registry import ARCHITECTURES
from xtrain.errors import ConfigError

# Every figure of the paper's recipes, and of ours, spelled out once more so that a slip shows.
DEFAULTS = {
    "simplecnn-v1": ("adam", 0.001, 32, None, None, "dataset"),
    "simplecnn": ("adam", 0.001, 32, None, None, "dataset"),
    "alexnet": ("adagrad", 0.01, 64, 256, 224, "imagenet"),
    "alexnet-bn": ("adagrad", 0.001, 64, 256, 224, "imagenet"),
    "resnet18": ("adagrad", 0.0005, 64, 224, None, "dataset"),
    "resnet34": ("adagrad", 0.0005, 64, 224, None, "dataset"),
    "resnet50": ("adagrad", 0.0005, 64, 224, None, "dataset"),
    "resnet101": ("adagrad", 0.0005, 64, 224, None, "dataset"),
    "resnet152": ("adagrad", 0.0005, 64, 224, None, "dataset"),
    "xception": ("adamw", 0.001, 32, 168, None, "imagenet"),
    "efficientnet-lite0": ("adamw", 0.001, 64, 112, None, "pretrained"),
    "mobilenet_v2": ("adamw", 0.001, 64, 112, None, "pretrained"),
}

OURS = ("efficientnet-lite0", "mobilenet_v2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults_are_the_papers_and_ours(name: str) -> None:
    config = resolve(name, "pathmnist")
    got = (config.optimizer, config.lr, config.batch_size, config.image_size, config.crop, config.statistics)
    assert got == DEFAULTS[name]
    assert config.recipe == ARCHITECTURES[name].recipes[0].name == ("paper" if name not in OURS else "default")
    assert config.seed == 22 and config.balance and config.patience > config.plateau_patience
    assert config.pretrained == (ARCHITECTURES[name].weights is not None)


def test_resnets_schedule() -> None:
    config = resolve("resnet152", "pathmnist")
    assert (config.epochs, config.patience, config.plateau_factor, config.plateau_patience) == (200, 20, 0.25, 8)


@pytest.mark.parametrize("name", OURS)
def test_our_schedule_runs_to_its_end(name: str) -> None:
    config = resolve(name, "pathmnist")
    assert (config.scheduler, config.epochs, config.augment) == ("onecycle", 60, "strong")
    assert config.patience >= config.epochs, "early stopping would cut the cycle off"
    with pytest.raises(ConfigError, match=f"{name} has no recipe 'paper'"):
        resolve(name, "pathmnist", recipe="paper")


def test_a_config_without_a_recipe_is_of_the_models_first(tmp_path: Path) -> None:
    for name, recipe in (("simplecnn", "paper"), ("mobilenet_v2", "default")):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"model": name, "data": "digits", "epochs": 3}))
        data, settings = read_config(path, name, None, {})
        config = resolve(name, data, **settings)
        assert (config.recipe, config.epochs) == (recipe, 3)
        path.write_text(json.dumps(config.as_json()))
        data, settings = read_config(path, name, None, {})
        assert resolve(name, data, **settings) == config


def test_simplecnn_trains_15_epochs_on_mnist_and_until_it_stops_elsewhere() -> None:
    assert (resolve("simplecnn", "mnist").epochs, resolve("simplecnn", "mnist").plateau_patience) == (15, 1)
    assert (resolve("simplecnn", "pathmnist").epochs, resolve("simplecnn", "pathmnist").plateau_patience) == (100, 8)


def test_fast_knows_digits_from_tissue() -> None:
    digits, tissue = (resolve("simplecnn", data, recipe="fast") for data in ("mnist", "pathmnist"))
    assert (digits.augment, tissue.augment) == ("digits", "paper")
    assert digits.epochs < 15 < tissue.epochs
    for config in (digits, tissue):
        assert config.scheduler == "onecycle" and config.patience >= config.epochs and config.batch_size > 32
    with pytest.raises(ConfigError, match="simplecnn-v1 has no recipe 'fast'"):
        resolve("simplecnn-v1", "mnist", recipe="fast")


def test_a_new_size_drops_the_recipes_crop() -> None:
    config = resolve("alexnet", "pathmnist", image_size=96)
    assert (config.image_size, config.crop) == (96, None)


def test_json_round_trip() -> None:
    config = resolve("simplecnn", "digits", switches={"dropout": False})
    assert TrainConfig.from_json(config.as_json()) == config
    with pytest.raises(ConfigError, match="warp"):
        TrainConfig.from_json({**config.as_json(), "warp": 1})


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("simplecnn", {"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ("simplecnn", {"batch_size": 1}, "--batch-size is 1; it must be at least 2"),
        ("simplecnn", {"lr": 0.0}, "--lr is 0.0"),
        ("simplecnn", {"lr": float("nan")}, "--lr is nan"),
        ("simplecnn", {"val_fraction": 1.0}, "--val-fraction is 1.0"),
        ("simplecnn", {"pretrained": True}, "simplecnn has no published weights"),
        (
            "resnet18",
            {"patience": 5, "plateau_patience": 8},
            "ends training before the plateau scheduler, after 9 epochs",
        ),
        ("resnet18", {"image_size": 20}, "from 28 pixels, not 20"),
        ("xception", {"image_size": 64}, "from 96 pixels, not 64"),
        ("resnet18", {"switches": {"dropout": True}}, "no switch --dropout"),
        ("resnet19", {}, "did you mean resnet18"),
    ],
)
def test_contradictions_are_refused(model: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(model, "pathmnist", **given)


@pytest.mark.parametrize(
    ("model", "recipe", "expected"),
    [
        ("alexnet", "paper", {"augment": "paper", "lr": 0.01, "image_size": 256}),
        ("alexnet", "paper-intended", {"augment": "paper-intended", "lr": 0.01}),
        ("alexnet", "paper-balancing", {"augment": "none", "balance": True, "lr": 0.01}),
        ("alexnet", "paper-bn", {"lr": 0.001, "epochs": 150}),
        ("alexnet-bn", "paper-bn", {"lr": 0.001, "epochs": 150}),
        ("xception", "paper-xception-299", {"image_size": 299}),
    ],
)
def test_recipes_have_values(model: str, recipe: str, expected: dict[str, object]) -> None:
    config = resolve(model, "pathmnist", recipe=recipe)
    assert config.recipe == recipe and {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_recipe_resolves(name: str) -> None:
    for recipe in ARCHITECTURES[name].recipes:
        for data in ("pathmnist", "mnist"):
            resolve(name, data, recipe=recipe.name)
    with pytest.raises(ConfigError, match=f"{name} has no recipe"):
        resolve(name, "pathmnist", recipe="paper-xception-299" if name != "xception" else "paper-bn")


def test_the_learning_rate_follows_the_optimizer() -> None:
    assert resolve("simplecnn", "pathmnist", optimizer="sgd").lr == 0.01
    assert resolve("simplecnn", "pathmnist", optimizer="adam").lr == 0.001, "the recipe's own"
    assert resolve("simplecnn", "pathmnist", optimizer="sgd", lr=0.5).lr == 0.5
    assert resolve("resnet18", "pathmnist", optimizer="adagrad").lr == 0.0005


def test_a_folder_of_a_data_sets_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pathmnist", "pathmnist_64", "digits", "mine"):
        (tmp_path / name).mkdir()
    assert [resolve("simplecnn", name).data for name in ("pathmnist_64", "digits")] == ["pathmnist_64", "digits"]
    assert resolve("simplecnn", "mine").data == str(tmp_path / "mine")
    assert resolve("simplecnn", "./digits").data == str(tmp_path / "digits")
