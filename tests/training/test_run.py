"""What is settled before training: statistics, recipes, and the data's own nature."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from training.config import resolve
from training.policies import POLICIES
from training.run import prepare


def test_grey_imagenet_statistics_are_averages() -> None:
    spec = prepare(resolve("simplecnn", "digits", statistics="imagenet")).spec
    assert spec.mean == pytest.approx((0.449,)) and spec.std == pytest.approx((0.226,))


def test_published_weights_have_statistics_of_their_own(sample: Path) -> None:
    """Xception's expect 0.5, TensorFlow's mobile networks (byte - 127) / 128; the paper normalised with ImageNet's."""
    ready = prepare(resolve("xception", str(sample), statistics="pretrained"))
    assert ready.spec.mean == (0.5, 0.5, 0.5) == ready.spec.std
    assert prepare(resolve("xception", str(sample))).spec.mean == (0.485, 0.456, 0.406)
    lite = prepare(resolve("efficientnet-lite0", str(sample))).spec
    assert lite.mean == pytest.approx((127 / 255,) * 3) and lite.std == pytest.approx((128 / 255,) * 3)
    assert prepare(resolve("resnet18", str(sample), statistics="pretrained")).spec.mean == (0.485, 0.456, 0.406)


def test_digits_are_not_flipped_unless_asked(sample: Path) -> None:
    assert prepare(resolve("simplecnn", "digits")).config.augment == "none"
    assert prepare(resolve("simplecnn", "digits", augment="paper")).config.augment == "paper"
    assert prepare(resolve("simplecnn", str(sample))).config.augment == "paper"
    assert prepare(resolve("simplecnn", str(sample), recipe="paper-intended")).config.augment == "paper-intended"


def test_fast_augments_digits_without_a_flip(sample: Path) -> None:
    policy = POLICIES[prepare(resolve("simplecnn", "digits", recipe="fast")).config.augment or ""]
    assert policy is not None and policy.rotate and policy.degrees < 30
    assert not (policy.horizontal_flip or policy.vertical_flip or policy.transpose)
    assert prepare(resolve("simplecnn", str(sample), recipe="fast")).config.augment != "digits"


def test_fast_trains(sample: Path, tmp_path: Path, command: Command) -> None:
    result = command("xtrain", "simplecnn", "--data", sample, "--recipe", "fast", "--epochs", 6, "-o", tmp_path / "run")
    assert result.code == 0 and "not augmented" not in result.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["val_accuracy"] for line in lines) > 0.5, "nine classes"
    digits = command("xtrain", "simplecnn", "--data", "digits", "--recipe", "fast", "--dry-run")
    assert digits.code == 0 and "not augmented" not in digits.err
