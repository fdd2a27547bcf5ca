from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from training.loop import augment
from training.policies import POLICIES, Policy
from xtrain.data.datasets import read_npz

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


def paper(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    policy = POLICIES["paper-intended"]
    assert policy is not None
    return augment.augment(images.clone(), augment.sample(policy, len(images), generator))


def test_each_image_is_sampled_for_itself(images: torch.Tensor) -> None:
    """With probability 0.1 for each of four changes, 0.9**4 = 65.6 % of images stay as they are."""
    generator = torch.Generator().manual_seed(5)
    rounds = 60
    unchanged = sum(int((paper(images, generator) == images).flatten(1).all(1).sum()) for _ in range(rounds))
    share = unchanged / (rounds * len(images))
    assert share == pytest.approx(0.9**4, abs=0.03)  # four standard deviations are 0.031


def test_the_sampled_values_fill_their_ranges() -> None:
    """Uniform within the paper's ranges: the ends are nearly reached, the means are central, a tenth is chosen."""
    policy = POLICIES["paper-intended"]
    assert policy is not None
    sampled = augment.sample(policy, 40_000, torch.Generator().manual_seed(6))
    for values, low, high in (
        (sampled.degrees, -30, 30),
        (sampled.brightness, 0.8, 1.2),
        (sampled.contrast, 0.8, 1.2),
        (sampled.saturation, 0.8, 1.2),
        (sampled.hue, -0.05, 0.05),
    ):
        width = high - low
        assert low <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01 * width)
    for mask in (sampled.horizontal_flip, sampled.vertical_flip, sampled.rotate, sampled.jitter):
        assert mask.float().mean() == pytest.approx(0.1, abs=0.006)
    assert not sampled.transpose.any() and not sampled.stain.any()
    # The choices are independent of one another.
    assert (sampled.horizontal_flip & sampled.rotate).float().mean() == pytest.approx(0.01, abs=0.002)


def test_the_seed_decides(images: torch.Tensor) -> None:
    got = [paper(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(got[0], got[1]) and not torch.equal(got[0], got[2])


@pytest.mark.parametrize("name", ["paper", "paper-intended", "strong"])
def test_processes_share_one_draw(images: torch.Tensor, name: str) -> None:
    """Rank r of 2 gives its images what one process would have given them."""
    policy = POLICIES[name]
    assert policy is not None
    sampled = augment.sample(policy, len(images), torch.Generator().manual_seed(4))
    whole = augment.augment(images.clone(), sampled)
    for rank in range(2):
        part = augment.augment(images[rank::2].clone(), sampled.shard(rank, 2))
        assert torch.allclose(part, whole[rank::2], atol=1e-6)


def test_strong_reaches_all_eight_poses(images: torch.Tensor) -> None:
    policy = Policy(0.5, 0.5, rotate=0, jitter=0, transpose=0.5)
    image = images[:1]
    poses = [p.rot90(k, (2, 3)) for p in (image, image.flip(3)) for k in range(4)]
    many = augment.augment(image.repeat(400, 1, 1, 1), augment.sample(policy, 400, torch.Generator().manual_seed(8)))
    counts = [int((many == pose).flatten(1).all(1).sum()) for pose in poses]
    assert sum(counts) == 400 and min(counts) > 25


def test_a_stain_gain_scales_absorption() -> None:
    images = torch.full((1, 3, 2, 2), 0.6)
    got = augment.adjust_channels(images, torch.tensor([[0.5, 1.0, 2.0]]))
    assert torch.allclose(got[0, :, 0, 0], torch.tensor([0.8, 0.6, 0.2]))


@pytest.mark.parametrize("name", ["paper", "paper-intended", "strong"])
def test_grey_images(images: torch.Tensor, name: str) -> None:
    policy = POLICIES[name]
    assert policy is not None
    grey = images[:, :1].clone()
    out = augment.augment(grey.clone(), augment.sample(policy, len(grey), torch.Generator().manual_seed(3)))
    assert out.shape == grey.shape and not torch.equal(out, grey) and out.min() >= 0 and out.max() <= 1
