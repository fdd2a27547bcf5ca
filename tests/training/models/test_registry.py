import pytest
import torch
from torch import nn

from training.models.dropout import ByteDropout
from training.models.efficientnet import SameConv2d
from training.models.registry import ARCHITECTURES, build, find
from xtrain.errors import ConfigError

# Parameters at 3 channels, 1000 classes, as their papers and torchvision's documentation count them.
PUBLISHED = {
    "alexnet": 61_100_840,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "xception": 22_855_952,
    "efficientnet-lite0": 4_652_008,
    "mobilenet_v2": 3_504_872,
}


def test_the_registry_is_the_papers_and_ours() -> None:
    assert list(ARCHITECTURES) == [
        "simplecnn-v1",
        "simplecnn",
        "alexnet",
        "alexnet-bn",
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        "xception",
        "efficientnet-lite0",
        "mobilenet_v2",
    ]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_at_the_smallest_size(name: str, channels: int) -> None:
    size = ARCHITECTURES[name].min_size
    torch.manual_seed(0)
    network = build(name, channels=channels, classes=5, image_size=size).train()
    logits = network(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    # Logits, not probabilities or their logarithms: neither rows nor their exponentials sum to 1.
    assert not torch.allclose(logits.exp().sum(1), torch.ones(2), atol=1e-3)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    network = build(name, channels=3, classes=1000, image_size=224)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [4, 5])
def test_same_padding_puts_the_odd_pixel_behind(size: int, kernel: int) -> None:
    """TensorFlow's rule, spelled out: out = ceil(in / 2), of the pixels that lack the smaller half goes in front."""
    convolution = SameConv2d(1, 1, kernel, stride=2)
    nn.init.ones_(convolution.weight)
    out = -(-size // 2)
    lacking = (out - 1) * 2 + kernel - size
    padded = torch.zeros(1, 1, size + lacking, size + lacking)
    front = lacking // 2
    padded[:, :, front : front + size, front : front + size] = torch.arange(size * size).reshape(size, size)
    windows = padded[0, 0].unfold(0, kernel, 2).unfold(1, kernel, 2).sum(dim=(2, 3))
    got = convolution(torch.arange(size * size).reshape(1, 1, size, size).float())
    assert got.shape == (1, 1, out, out) and torch.equal(got[0, 0], windows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_smaller_images_are_refused(name: str) -> None:
    smallest = find(name).min_size
    with pytest.raises(ConfigError, match=f"from {smallest} pixels"):
        build(name, channels=3, classes=2, image_size=smallest - 1)


def kinds(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.modules() if not list(layer.children())]


def test_simplecnn_v1_layers() -> None:
    assert kinds(build("simplecnn-v1", channels=1, classes=10, image_size=28)) == [
        "Conv2d", "LeakyReLU", "MaxPool2d", "Conv2d", "LeakyReLU", "MaxPool2d", "Flatten", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("dropout", [True, False])
def test_simplecnn_switches(batch_norm: bool, dropout: bool) -> None:
    network = build("simplecnn", channels=3, classes=9, image_size=28, batch_norm=batch_norm, dropout=dropout)
    layers = kinds(network)
    assert layers.count("BatchNorm2d") == 3 * batch_norm and layers.count("BatchNorm1d") == batch_norm
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [
        0.25,
        0.25,
        0.25,
        0.5,
    ] * dropout
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [32, 64, 128]


def test_alexnet_bn_normalises_behind_every_convolution() -> None:
    """What the paper's own code failed to do: five BatchNorms, and the last ReLU and MaxPool still there."""
    plain = [kind for kind in kinds(build("alexnet", channels=3, classes=9, image_size=224))]
    normed = kinds(build("alexnet-bn", channels=3, classes=9, image_size=224))
    behind = [after for before, after in zip(normed, normed[1:], strict=False) if before == "Conv2d"]
    assert behind == ["BatchNorm2d"] * 5
    assert [kind for kind in normed if kind != "BatchNorm2d"] == plain


def test_cifar_stem_keeps_resolution() -> None:
    network = build("resnet18", channels=3, classes=9, image_size=28, cifar_stem=True)
    seen: list[torch.Size] = []
    network.get_submodule("layer1").register_forward_hook(lambda *args: seen.append(args[2].shape))
    network(torch.zeros(2, 3, 28, 28))
    assert seen[0][2:] == (28, 28)


def test_switches_of_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="resnet18 has no switch --dropout; it belongs to simplecnn"):
        build("resnet18", channels=3, classes=9, image_size=28, dropout=True)


@pytest.mark.parametrize("p", [0.25, 0.5])
@pytest.mark.parametrize("shape", [(64, 32, 14, 14), (37, 256), (3, 5)])
def test_byte_dropout_is_dropout(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    layer = ByteDropout(p).train()
    features = torch.ones(shape, requires_grad=True)
    dense = features.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else features
    out = layer(dense)
    assert set(out.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p)).item()} and out.stride() == dense.stride()
    if out.numel() > 1000:
        # Within four standard deviations, in every byte position of the random words.
        dropped = (out == 0).float()
        assert dropped.mean() == pytest.approx(p, abs=4 * (p * (1 - p) / out.numel()) ** 0.5)
        flat = dropped.permute(0, 2, 3, 1).flatten() if len(shape) == 4 else dropped.flatten()
        for byte in range(8):
            part = flat[byte::8]
            assert part.mean() == pytest.approx(p, abs=4 * (p * (1 - p) / len(part)) ** 0.5)
    out.sum().backward()
    assert features.grad is not None and torch.equal(features.grad, out.detach())
    assert not torch.equal(layer(dense), out)
    assert torch.equal(layer.eval()(dense), dense)


def test_byte_dropout_takes_multiples_of_a_byte_alone() -> None:
    with pytest.raises(ValueError, match="0.1 is no multiple"):
        ByteDropout(0.1)
