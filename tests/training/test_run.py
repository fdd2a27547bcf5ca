"""What is settled before training: statistics, recipes, and the data's own nature."""

from pathlib import Path

import pytest

from training.config import resolve
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
