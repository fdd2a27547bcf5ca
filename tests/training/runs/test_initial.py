"""Starting from another run, and training the last layer alone at first."""

from pathlib import Path

import pytest

from tests.conftest import Command, make_npz, train
from training.runs import checkpoint

OPTIONS = ["--epochs", 1, "--augment", "none", "--no-balance", "--classes", 3]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    return train(folder / "run", "simplecnn", "--data", make_npz(folder / "tiny.npz"), "--epochs", 1)


def changed(run: Path, before: Path) -> set[str]:
    """The tensors whose values differ from another run's."""
    ours, theirs = checkpoint.load(run).weights, checkpoint.load(before).weights
    return {name for name in ours if ours[name].shape != theirs[name].shape or not ours[name].equal(theirs[name])}


def test_frozen_layers_keep_their_weights(first: Path, tiny: Path, tmp_path: Path) -> None:
    """Not one tensor but the last layer's two changes, BatchNorm's statistics neither; then all are trained."""
    options = ["simplecnn", "--data", tiny, "--init-from", first, "--augment", "none", "--freeze", 1]
    frozen = train(tmp_path / "frozen", *options, "--epochs", 1)
    assert changed(frozen, first) == {"classifier.4.weight", "classifier.4.bias"}
    thawed = train(tmp_path / "thawed", *options, "--epochs", 2)
    weights = checkpoint.load(thawed / "last.pt").weights
    assert all(not weights[name].equal(checkpoint.load(first).weights[name]) for name in weights if "weight" in name)


def test_other_classes_get_a_new_last_layer(first: Path, tmp_path: Path) -> None:
    data = make_npz(tmp_path / "five.npz", classes=5)
    options = ["simplecnn", "--data", data, "--init-from", first, "--augment", "none", "--freeze", 1, "--epochs", 1]
    run = train(tmp_path / "run", *options)
    assert checkpoint.load(run).weights["classifier.4.weight"].shape == (5, 256)
    assert changed(run, first) == {"classifier.4.weight", "classifier.4.bias"}


def test_resuming_while_frozen_gives_the_same_bits(first: Path, tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn", "--data", tiny, "--init-from", first, "--freeze", 2]
    whole = train(tmp_path / "whole", *options, "--epochs", 3)
    parts = train(tmp_path / "parts", *options, "--epochs", 1)
    train_more = ["simplecnn", "--resume", parts, "--epochs", 3]
    from training.cli import train as xtrain

    xtrain.main([*map(str, train_more)], standalone_mode=False)
    assert checkpoint.load(whole / "last.pt").digest == checkpoint.load(parts / "last.pt").digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simplecnn-v1", "--init-from", "FIRST"], "holds a simplecnn, not a simplecnn-v1"),
        (["simplecnn", "--init-from", "FIRST", "--no-batch-norm"], "use the switches of that run"),
        (["simplecnn", "--init-from", "FIRST", "--image-size", 40], "use the --image-size and colour mode of that run"),
        (["simplecnn", "--init-from", "nowhere"], "no such checkpoint"),
        (["simplecnn", "--freeze", 1], "--freeze would keep random weights"),
        (["resnet18", "--init-from", "FIRST", "--pretrained"], "leave one out"),
        (["simplecnn", "--class-weights", "--balance"], "both make up for rare classes"),
        (["simplecnn", "--scheduler", "onecycle", "--warmup-epochs", 1], "warms up by itself"),
        (["simplecnn", "--momentum", 0.5], "--momentum does nothing with --optimizer adam"),
        (["simplecnn", "--optimizer", "sgd", "--momentum", 0, "--nesterov"], "--nesterov needs a momentum"),
        (["simplecnn", "--mix-alpha", 1], "--mix-alpha does nothing without --mix"),
        (["simplecnn", "--batch-size", "many"], "'many' is not a valid integer"),
        (["simplecnn", "--batch-size", 0.5], "is not a valid integer"),
        (["simplecnn", "--batch-size", 1], "--batch-size is 1; it must be at least 2"),
    ],
)
def test_what_contradicts_is_refused(
    first: Path, tiny: Path, command: Command, tmp_path: Path, words: list[object], message: str
) -> None:
    words = [first if word == "FIRST" else word for word in words]
    result = command("xtrain", *words, "--data", tiny, "-o", tmp_path / "run")
    assert result.code in (1, 2) and message in result.error and not (tmp_path / "run").exists()
