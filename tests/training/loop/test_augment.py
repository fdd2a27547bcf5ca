from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from skimage.color import rgb2hed
from torchvision.transforms.v2 import functional as reference

from training.loop.augment import Augment
from training.loop.draw import STAINS, Layout, Sample, sample
from training.policies import POLICIES, Policy
from xtrain.data.datasets import read_npz

CPU = torch.device("cpu")
NAMES = [name for name in POLICIES if name != "none"]
EVERYTHING = Policy(jitter=1.0, stain=1.0, rotate=1.0, density=1.0, channel=1.0, blur=1.0, cutout=1.0, scale=(0.5, 2.0))


@pytest.fixture(scope="module")
def images(sample_file) -> torch.Tensor:  # type: ignore[no-untyped-def]
    pixels = torch.from_numpy(read_npz(sample_file).splits["train"].images[:64])
    return pixels.permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module", name="sample_file")
def _sample_file(sample):  # type: ignore[no-untyped-def]
    return sample


def neutral(rows: int) -> Sample:
    """Random numbers of images that all stay as they are."""
    drawn = sample(EVERYTHING, rows, torch.Generator().manual_seed(0))
    chosen = {item.name: torch.zeros(rows, dtype=torch.bool) for item in fields(Sample)[:10]}
    ones = {name: torch.ones(rows) for name in ("brightness", "contrast", "saturation", "scales")}
    return replace(drawn, **chosen, **ones, hue=torch.zeros(rows), shifts=torch.zeros(rows, 2))


def changed(images: torch.Tensor, mask: str, policy: Policy = EVERYTHING, **values: torch.Tensor) -> torch.Tensor:
    """The images, every one changed as `values` say, through the block as in training."""
    rows, channels, size, _ = images.shape
    layout = Layout(policy, channels, size)
    sampled = replace(neutral(rows), **{mask: torch.ones(rows, dtype=torch.bool)}, **values)
    parts = layout.parameters(sampled)
    block = torch.cat([parts[name].float().flatten(1) for name in layout.shapes], dim=1)
    return Augment(layout, CPU)(images.clone(), layout.split(block))


def augmented(images: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    rows, channels, size, _ = images.shape
    layout = Layout(POLICIES[name], channels, size)
    block = layout.draw(rows, torch.Generator().manual_seed(seed))
    return Augment(layout, CPU)(images.clone(), layout.split(block))


@pytest.mark.parametrize(
    ("mask", "values", "theirs", "low", "high"),
    [
        ("jitter", "brightness", reference.adjust_brightness, 0.5, 1.5),
        ("jitter", "contrast", reference.adjust_contrast, 0.5, 1.5),
        ("jitter", "saturation", reference.adjust_saturation, 0.5, 1.5),
        ("jitter", "hue", reference.adjust_hue, -0.5, 0.5),
        ("rotate", "degrees", reference.rotate, -180.0, 180.0),
    ],
)
def test_each_transform_is_torchvisions(
    images: torch.Tensor, mask: str, values: str, theirs: Callable[..., torch.Tensor], low: float, high: float
) -> None:
    drawn = torch.linspace(low, high, len(images))
    expected = torch.stack([theirs(image, value.item()) for image, value in zip(images, drawn, strict=True)])
    got = changed(images, mask, **{values: drawn})
    assert not torch.allclose(expected, images, atol=1e-2)
    # A coordinate on the border between two pixels may round either way in a rotation.
    assert ((got - expected).abs() > 1e-5).float().mean() < 1e-3


def test_scale_and_shift_are_torchvisions(images: torch.Tensor) -> None:
    """Angle, shift and scale together, against torchvision's affine; ours rotates counter-clockwise, theirs clockwise.

    Both sample the nearest pixel; a coordinate on the border between two may round either way.
    """
    angles, scales = torch.linspace(-90, 90, len(images)), torch.linspace(0.6, 1.6, len(images))
    shifts = torch.stack([torch.linspace(-4, 4, len(images)), torch.linspace(3, -3, len(images))], dim=1).round()
    expected = torch.stack(
        [
            reference.affine(image, -angle.item(), [int(x), int(y)], scale.item(), [0.0, 0.0])
            for image, angle, scale, (x, y) in zip(images, angles, scales, shifts.tolist(), strict=True)
        ]
    )
    got = changed(images, "rotate", degrees=angles, scales=scales, shifts=shifts / 28)
    assert ((got - expected).abs() > 1e-5).float().mean() < 5e-3


def test_the_outside_is_a_mirror_image_where_asked(images: torch.Tensor) -> None:
    half = torch.full((len(images), 2), 0.0)
    half[:, 0] = 0.5
    moved = changed(images, "rotate", replace(EVERYTHING, smooth=True), degrees=torch.zeros(len(images)), shifts=half)
    assert torch.allclose(moved[..., 14:], images[..., :14], atol=1e-5)
    assert torch.allclose(moved[..., :14], images[..., :14].flip(3), atol=1e-5)


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.25])
def test_stains_are_scaled_in_optical_density(factor: float) -> None:
    """Colours made of known amounts of haematoxylin, eosin and DAB come out with the amounts that were asked for."""
    stains = np.array(STAINS)
    amounts = np.random.default_rng(0).uniform(0, 0.3, (16, 3))
    scale, offset = np.array([factor, 1.0, 1.0]), np.array([0.0, 0.04, 0.01])
    before, after = 10 ** -(amounts @ stains), 10 ** -((amounts * scale + offset) @ stains)
    pixels = torch.from_numpy(before).float().T.reshape(1, 3, 4, 4)
    got = changed(
        pixels,
        "density",
        density_factors=torch.from_numpy(scale).float().unsqueeze(0),
        density_offsets=torch.from_numpy(offset).float().unsqueeze(0),
    )
    assert torch.allclose(got, torch.from_numpy(after).float().T.reshape(1, 3, 4, 4), atol=1e-5)


def test_stains_agree_with_scikit_image(images: torch.Tensor) -> None:
    """Our separation is skimage's `rgb2hed`: the stains of a picture, and of the same with more haematoxylin."""
    factors, picture = torch.tensor([[1.2, 1.0, 1.0]]), images[:1]
    got = changed(picture, "density", density_factors=factors, density_offsets=torch.zeros(1, 3))
    before, after = (rgb2hed(item[0].permute(1, 2, 0).numpy()) for item in (picture, got))
    assert np.allclose(after[..., 0], 1.2 * before[..., 0], atol=1e-3)


def test_gain_and_offset_of_a_channel(images: torch.Tensor) -> None:
    gains, offsets = torch.tensor([0.9, 1.0, 1.1]), torch.tensor([0.05, -0.05, 0.0])
    rows = len(images)
    got = changed(images, "channel", channel_gains=gains.repeat(rows, 1), channel_offsets=offsets.repeat(rows, 1))
    assert torch.allclose(got, (images * gains.view(3, 1, 1) + offsets.view(3, 1, 1)).clamp(0, 1), atol=1e-6)


def test_blur_is_torchvisions(images: torch.Tensor) -> None:
    got = changed(images, "blur", sigma=torch.full((len(images),), 0.8))
    assert torch.allclose(got, reference.gaussian_blur(images, [5, 5], [0.8, 0.8]), atol=1e-5)


def test_cutout_fills_a_square_with_the_mean(images: torch.Tensor) -> None:
    got = changed(images, "cutout", replace(EVERYTHING, cutout_side=0.5), cutout_centre=torch.zeros(len(images), 2))
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[7:21, 7:21] = True
    assert torch.equal(got[..., ~inside], images[..., ~inside])
    assert torch.allclose(got[..., inside], images.mean(dim=(2, 3)).unsqueeze(2).expand(-1, -1, 196))


def test_a_stain_gain_scales_absorption() -> None:
    got = changed(torch.full((1, 3, 4, 4), 0.6), "stain", gains=torch.tensor([[0.5, 1.0, 2.0]]))
    assert torch.allclose(got[0, :, 0, 0], torch.tensor([0.8, 0.6, 0.2]))


def test_each_image_is_sampled_for_itself(images: torch.Tensor) -> None:
    """With probability 0.1 for each of four changes, 0.9**4 = 65.6 % of images stay exactly as they are."""
    rounds = 60
    unchanged = sum(
        int((augmented(images, "paper-intended", seed) == images).flatten(1).all(1).sum()) for seed in range(rounds)
    )
    share = unchanged / (rounds * len(images))
    assert share == pytest.approx(0.9**4, abs=0.03)  # four standard deviations are 0.031


def test_the_sampled_values_fill_their_ranges() -> None:
    """Uniform within the policy's ranges: the ends are nearly reached, the means are central, a tenth is chosen."""
    policy = replace(POLICIES["paper-intended"] or Policy(), scale=(0.7, 1.1), shift=0.15)
    sampled = sample(policy, 40_000, torch.Generator().manual_seed(6))
    for values, low, high in (
        (sampled.degrees, -30, 30),
        (sampled.brightness, 0.8, 1.2),
        (sampled.contrast, 0.8, 1.2),
        (sampled.saturation, 0.8, 1.2),
        (sampled.hue, -0.05, 0.05),
        (sampled.scales, 0.7, 1.1),
        (sampled.shifts[:, 0], -0.15, 0.15),
        (sampled.density_factors[:, 1], 0.75, 1.25),
        (sampled.density_offsets[:, 2], -0.05, 0.05),
        (sampled.channel_gains[:, 0], 0.85, 1.15),
        (sampled.channel_offsets[:, 0], -0.1, 0.1),
        (sampled.sigma, 0, 1),
    ):
        width = high - low
        assert low - 1e-6 <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01 * width)
    for mask in (sampled.horizontal_flip, sampled.vertical_flip, sampled.rotate, sampled.jitter):
        assert mask.float().mean() == pytest.approx(0.1, abs=0.006)
    assert not any(mask.any() for mask in (sampled.transpose, sampled.stain, sampled.density, sampled.blur))
    # The choices are independent of one another.
    assert (sampled.horizontal_flip & sampled.rotate).float().mean() == pytest.approx(0.01, abs=0.002)


def test_the_seed_decides(images: torch.Tensor) -> None:
    got = [augmented(images, "strong", seed) for seed in (1, 1, 2)]
    assert torch.equal(got[0], got[1]) and not torch.equal(got[0], got[2])


def test_strong_reaches_all_eight_poses(images: torch.Tensor) -> None:
    layout = Layout(Policy(horizontal_flip=0.5, vertical_flip=0.5, transpose=0.5), 3, 28)
    image = images[:1]
    poses = [p.rot90(k, (2, 3)) for p in (image, image.flip(3)) for k in range(4)]
    block = layout.draw(400, torch.Generator().manual_seed(8))
    many = Augment(layout, CPU)(image.repeat(400, 1, 1, 1), layout.split(block))
    counts = [int((many == pose).flatten(1).all(1).sum()) for pose in poses]
    assert sum(counts) == 400 and min(counts) > 25


@pytest.mark.parametrize("name", NAMES)
def test_all_images_or_only_the_changed_ones(images: torch.Tensor, name: str) -> None:
    """A GPU transforms every image, by the identity where nothing is chosen; the CPU only those that change."""
    layout = Layout(POLICIES[name], 3, 28)
    parts = layout.split(layout.draw(len(images), torch.Generator().manual_seed(5)))
    augment = Augment(layout, CPU)
    everything = images.clone()
    for part in layout.identity():
        everything = augment.changes[part](everything, parts[part])
    assert torch.allclose(augment(images.clone(), parts), everything, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_grey_images(images: torch.Tensor, name: str) -> None:
    grey = images[:, :1].clone()
    out = augmented(grey, name, 3)
    assert out.shape == grey.shape and not torch.equal(out, grey) and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing(images: torch.Tensor, mix: str) -> None:
    """An image's share of itself is what its pixels say: exactly for a square, by the blend for mixup."""
    layout = Layout(None, 3, 28, mix)
    parts = layout.split(layout.draw(len(images), torch.Generator().manual_seed(2)))
    mixed, share = Augment(layout, CPU).mix(images, parts), parts["mix"][:, 3]
    partner = images.roll(1, dims=0)
    assert 0 <= share.min() < 0.3 and 0.7 < share.max() <= 1
    if mix == "mixup":
        blended = share.view(-1, 1, 1, 1) * images + (1 - share.view(-1, 1, 1, 1)) * partner
        assert torch.allclose(mixed, blended, atol=1e-6)
    else:
        own = ((mixed == images) & (images != partner)).any(dim=1).flatten(1).sum(1)
        differ = (images != partner).any(dim=1).flatten(1).sum(1)
        assert torch.equal(mixed, torch.where(mixed == images, images, partner))
        assert torch.allclose(own / differ, share, atol=0.05)
