import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.fileserver import serving
from training.models.pretrained import fit_weights, load_pretrained
from training.models.registry import ARCHITECTURES, build
from xtrain.errors import WeightsError

PRETRAINED = [name for name, entry in ARCHITECTURES.items() if entry.weights]


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_address_carries_a_hash(name: str) -> None:
    weights = ARCHITECTURES[name].weights
    assert weights and torch.hub.HASH_REGEX.search(weights.url), "check_hash needs the hash in the file's name"
    assert weights.url.startswith("https://")
    if name != "xception":
        from torchvision.models import get_model_weights

        assert weights.url == get_model_weights(name.removesuffix("-bn"))["IMAGENET1K_V1"].url


def published(name: str) -> dict[str, torch.Tensor]:
    """A state dict with the keys and shapes of the published file, other numbers."""
    torch.manual_seed(7)
    state = build(name.removesuffix("-bn"), channels=3, classes=1000, image_size=224).state_dict()
    # The Xception release file was saved before its head was renamed.
    return {key.replace("last_linear.", "fc."): value for key, value in state.items()}


@pytest.mark.parametrize("name", ["alexnet", "alexnet-bn", "resnet18", "xception"])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_but_head_and_new_layers_are_loaded(name: str, channels: int) -> None:
    state = published(name)
    network = build(name, channels=channels, classes=9, image_size=224)
    fresh = fit_weights(network, name, state)
    assert fresh and all(key.startswith(("classifier.6.", "fc.", "last_linear.")) or "_bn." in key for key in fresh), (
        fresh
    )
    own = network.state_dict()
    shared = [key for key in state if key in own and own[key].shape == state[key].shape]
    assert all(torch.equal(own[key], state[key]) for key in shared)
    stem = next(key for key in state if state[key].ndim == 4)
    assert torch.equal(own[stem], state[stem] if channels == 3 else state[stem].sum(1, keepdim=True))


def test_cifar_stem_stays_fresh() -> None:
    network = build("resnet18", channels=3, classes=9, image_size=28, cifar_stem=True)
    assert fit_weights(network, "resnet18", published("resnet18")) == ["conv1.weight", "fc.weight", "fc.bias"]


def test_weights_of_another_network_are_refused() -> None:
    network = build("resnet34", channels=3, classes=9, image_size=224)
    with pytest.raises(WeightsError, match="do not belong to resnet34"):
        fit_weights(network, "resnet34", published("resnet18"))


def publish_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let resnet18's published weights lie elsewhere."""
    entry = ARCHITECTURES["resnet18"]
    assert entry.weights
    monkeypatch.setitem(ARCHITECTURES, "resnet18", replace(entry, weights=replace(entry.weights, url=url)))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    with serving(folder) as address:
        yield address, folder


def test_fetched_once_checked_and_cached(
    tmp_path: Path, mirror: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = mirror
    torch.save(published("resnet18"), folder / "raw.pth")
    digest = hashlib.sha256((folder / "raw.pth").read_bytes()).hexdigest()[:8]
    (folder / "raw.pth").rename(folder / f"resnet18-{digest}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    publish_at(monkeypatch, f"{address}/resnet18-{digest}.pth")
    network = build("resnet18", channels=3, classes=9, image_size=224)
    load_pretrained(network, "resnet18")
    assert torch.equal(network.state_dict()["conv1.weight"], published("resnet18")["conv1.weight"])
    (folder / f"resnet18-{digest}.pth").unlink()
    load_pretrained(network, "resnet18")  # from the cache now


def test_a_file_with_another_hash_is_refused(
    tmp_path: Path, mirror: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = mirror
    torch.save(published("resnet18"), folder / "resnet18-00000000.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    publish_at(monkeypatch, f"{address}/resnet18-00000000.pth")
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_pretrained(build("resnet18", channels=3, classes=9, image_size=224), "resnet18")
    assert not list((tmp_path / "hub").rglob("*.pth"))


def test_offline_says_what_to_do(tmp_path: Path, mirror: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = mirror
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    publish_at(monkeypatch, f"{address}/resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd.pth by other means.*hub.*--no-pretrained"):
        load_pretrained(build("resnet18", channels=3, classes=9, image_size=224), "resnet18")
