import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import HAS_REAL_DATA, make_npz, needs_real_data
from tests.fileserver import serving
from xtrain.data import catalog
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import file_digest, read_npz
from xtrain.errors import ConfigError, DataError


@needs_real_data
def test_pathmnist_sample_takes_its_names_from_medmnist(sample: Path) -> None:
    dataset = catalog.load(str(sample))
    assert dataset.classes[0] == "adipose" and dataset.classes[8].startswith("colorectal")
    assert dataset.licence == "CC BY 4.0"


@needs_real_data
def test_breastmnist_by_name(data_dir: Path) -> None:
    dataset = catalog.load("breastmnist", LoadOptions(data_dir=data_dir))
    assert dataset.md5 == "750601b1f35ba3300ea97c75c52ff8f6"
    assert dataset.classes == ("malignant", "normal, benign") and dataset.shape == (28, 28, 1)


@needs_real_data
def test_mnist_by_name(data_dir: Path) -> None:
    dataset = catalog.load("mnist", LoadOptions(data_dir=data_dir))
    assert len(dataset.splits["train"]) == 60_000 and len(dataset.splits["test"]) == 10_000
    first = dataset.splits["train"]
    assert first.labels is not None and first.labels[:5].tolist() == [5, 0, 4, 1, 9] and dataset.upright


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    dataset, bunch = catalog.load("digits"), load_digits()
    split = dataset.splits["train"]
    assert split.images.shape == (1797, 28, 28, 1) and split.images.max() == 255
    assert split.labels is not None and (split.labels == bunch.target).all()
    # Enlarged, not re-ordered: the mean brightness of each image is kept.
    np.testing.assert_allclose(split.images.mean((1, 2, 3)) / 255, bunch.images.mean((1, 2)) / 16, atol=0.05)


@pytest.mark.parametrize(("wrong", "right"), [("pathmist", "pathmnist"), ("mnst", "mnist"), ("digit", "digits")])
def test_an_unknown_name_gets_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=right):
        catalog.load(wrong)


def test_multilabel_and_3d_sets_are_not_offered() -> None:
    for name in ("chestmnist", "organmnist3d", "pathmnist_99"):
        with pytest.raises(ConfigError):
            catalog.load(name)


@pytest.fixture
def breastmnist(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official file or, on a fresh clone, grey digits under its name, whose md5 MedMNIST is made to expect."""
    path = tmp_path / "published" / "breastmnist.npz"
    path.parent.mkdir()
    if HAS_REAL_DATA:
        shutil.copy(data_dir / "medmnist" / "breastmnist.npz", path)
        return path
    import medmnist

    make_npz(path, classes=2, rows=40)
    for info in (medmnist.INFO, catalog._medmnist_info()):
        monkeypatch.setitem(info["breastmnist"], "MD5", file_digest(path))
    return path


@pytest.fixture
def mirror(tmp_path: Path, breastmnist: Path) -> Iterator[str]:
    """A real HTTP server on loopback that holds breastmnist.npz, and a broken copy of it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    shutil.copy(breastmnist, folder)
    (folder / "broken.npz").write_bytes(b"not the published file")
    with serving(folder) as address:
        yield address


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MedMNIST's own cache must not answer."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("no_home")
@pytest.mark.filterwarnings("ignore")
class TestDownload:
    def test_from_loopback(
        self, tmp_path: Path, mirror: str, breastmnist: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import medmnist

        for info in (medmnist.INFO, catalog._medmnist_info()):
            monkeypatch.setitem(info["breastmnist"], "url", f"{mirror}/breastmnist.npz")
        cache = tmp_path / "cache"
        assert len(catalog.load("breastmnist", LoadOptions(data_dir=cache)).splits["train"]) == len(
            read_npz(breastmnist).splits["train"]
        )
        assert [path.name for path in cache.iterdir()] == ["breastmnist.npz"]

    @pytest.mark.parametrize("file", ["broken.npz", "absent.npz"])
    def test_another_file_is_refused(
        self, tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        import medmnist

        for info in (medmnist.INFO, catalog._medmnist_info()):
            monkeypatch.setitem(info["breastmnist"], "url", f"{mirror}/{file}")
        cache = tmp_path / "cache"
        with pytest.raises(DataError, match="could not be downloaded; fetch http://127.0.0.1"):
            catalog.load("breastmnist", LoadOptions(data_dir=cache))
        assert list(cache.iterdir()) == []

    def test_a_changed_file_is_refused(self, tmp_path: Path, breastmnist: Path) -> None:
        content = breastmnist.read_bytes()
        (tmp_path / "breastmnist.npz").write_bytes(content + b"\0")
        with pytest.raises(DataError, match="is not MedMNIST's"):
            catalog.load("breastmnist", LoadOptions(data_dir=tmp_path))
