"""Rows that stay in their `.npz` are the same pixels, in every layout, compressed or not, and damage is said."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_npz
from xtrain.data.archived import ArchivedRows
from xtrain.data.datasets import read_npz
from xtrain.data.splits import divide, is_own_split
from xtrain.errors import DataError


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(22).integers(0, 256, (300, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_slices_are_the_arrays(images: np.ndarray, tmp_path: Path, save: object) -> None:
    """In order, with gaps, backwards, empty, and beyond the end."""
    save(tmp_path / "a.npz", other=np.zeros(3), images=images)  # type: ignore[operator]
    rows = ArchivedRows(tmp_path / "a.npz", "images")
    assert rows.shape == images.shape and rows.nbytes == images.nbytes and len(rows) == 300 and rows.ndim == 4
    for part in (slice(0, 7), slice(7, 100), slice(150, 151), slice(20, 30), slice(40, 40), slice(290, 400)):
        assert np.array_equal(rows[part], images[part])
    assert np.array_equal(rows[:], images)
    for wrong in (3, slice(0, 10, 2), np.arange(3)):
        with pytest.raises(IndexError):
            rows[wrong]
    rows.close()


def test_a_file_that_ends_early_or_is_damaged(images: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=images)
    rows = ArchivedRows(tmp_path / "a.npz", "images")
    assert np.array_equal(rows[:10], images[:10])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(content)
    damaged = ArchivedRows(tmp_path / "b.npz", "images")
    with pytest.raises(DataError, match="not a readable .npz"):
        for start in range(0, 300, 50):
            damaged[start : start + 50]
    rows.close()


def test_fortran_order_and_objects_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", images=np.asfortranarray(images), objects=np.array([{}], object))
    with pytest.raises(ValueError, match="Fortran"):
        ArchivedRows(tmp_path / "f.npz", "images")
    with pytest.raises(ValueError, match="pickled"):
        ArchivedRows(tmp_path / "f.npz", "objects")


def test_a_data_set_in_order_is_the_one_in_memory(tmp_path: Path) -> None:
    path = make_npz(tmp_path / "tiny.npz")
    loaded, streamed = read_npz(path), read_npz(path, in_order=True)
    assert loaded.md5 == streamed.md5 and loaded.shape == streamed.shape == (28, 28, 1)
    for name, split in loaded.splits.items():
        assert isinstance(streamed.splits[name].images, ArchivedRows)
        assert np.array_equal(streamed.splits[name].images[:], split.images[:])
        assert np.array_equal(streamed.splits[name].labels, split.labels)
    with pytest.raises(ValueError, match="whole splits"):
        streamed.take(np.array([1, 0]))


@pytest.mark.parametrize("dropped", [(), ("val",), ("test",), ("val", "test")])
def test_a_whole_split_is_what_dividing_gives(tmp_path: Path, dropped: tuple[str, ...]) -> None:
    """Under both protocols, with and without splits of the file's own."""
    replaced = {f"{name}_{kind}": None for name in dropped for kind in ("images", "labels")}
    dataset = read_npz(make_npz(tmp_path / "tiny.npz", **replaced))
    for protocol in ("official", "pooled"):
        partition = divide(dataset, protocol)
        for name in ("train", "val", "test"):
            whole = name in dataset.splits and np.array_equal(partition.rows(name), dataset.rows_of(name))
            assert is_own_split(dataset, protocol, name) == whole, (protocol, name)


def test_a_pool_has_no_official_splits(tmp_path: Path) -> None:
    """Its test rows are its own; its training rows are divided once more."""
    arrays = np.load(make_npz(tmp_path / "tiny.npz"))
    names = {"train_images": "train_images_shuffled", "train_labels": "train_labels_shuffled"}
    kept = {new: arrays[old] for old, new in names.items()}
    np.savez(tmp_path / "kaggle.npz", **kept, test_images_shuffled=arrays["test_images"])
    dataset = read_npz(tmp_path / "kaggle.npz")
    assert dataset.pool_only and is_own_split(dataset, "pooled", "test")
    for protocol, name in (("official", "test"), ("official", "train"), ("pooled", "train"), ("pooled", "val")):
        assert not is_own_split(dataset, protocol, name)
