from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from training import augment
from training.datasets import read_npz

Adjust = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def images(sample) -> torch.Tensor:  # type: ignore[no-untyped-def]
    pixels = torch.from_numpy(read_npz(sample).splits["train"].images[:64])
    return pixels.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (augment.adjust_brightness, reference.adjust_brightness, 0.5, 1.5),
        (augment.adjust_contrast, reference.adjust_contrast, 0.5, 1.5),
        (augment.adjust_saturation, reference.adjust_saturation, 0.5, 1.5),
        (augment.adjust_hue, reference.adjust_hue, -0.5, 0.5),
        (augment.rotate, reference.rotate, -180.0, 180.0),
    ],
)
def test_each_transform_is_torchvisions(
    images: torch.Tensor, ours: Adjust, theirs: Callable[..., torch.Tensor], low: float, high: float
) -> None:
    values = torch.linspace(low, high, len(images))
    expected = torch.stack([theirs(image, value.item()) for image, value in zip(images, values, strict=True)])
    got = ours(images, values)
    assert not torch.allclose(expected, images, atol=1e-2)
    # A coordinate on the border between two pixels may round either way in a rotation.
    assert ((got - expected).abs() > 1e-5).float().mean() < 1e-3


def test_rotation_of_oblong_images(images: torch.Tensor) -> None:
    oblong = images[:4, :, :, :20].contiguous()
    expected = torch.stack([reference.rotate(image, 25.0) for image in oblong])
    assert torch.allclose(augment.rotate(oblong, torch.full((4,), 25.0)), expected)


def test_each_image_is_drawn_for_itself(images: torch.Tensor) -> None:
    """With probability 0.1 for each of four changes, 0.9**4 = 65.6 % of images stay as they are."""
    generator = torch.Generator().manual_seed(5)
    unchanged, rounds = 0, 60
    for _ in range(rounds):
        changed = augment.augment_paper(images.clone(), generator)
        unchanged += int((changed == images).flatten(1).all(1).sum())
    share = unchanged / (rounds * len(images))
    assert share == pytest.approx(0.9**4, abs=0.03)  # four standard deviations are 0.031


def test_the_seed_decides(images: torch.Tensor) -> None:
    draw = [augment.augment_paper(images.clone(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_grey_images(images: torch.Tensor) -> None:
    grey = images[:, :1].clone()
    out = augment.augment_paper(grey.clone(), torch.Generator().manual_seed(3))
    assert out.shape == grey.shape and not torch.equal(out, grey) and out.min() >= 0 and out.max() <= 1
