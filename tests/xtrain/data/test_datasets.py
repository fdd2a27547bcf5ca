from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_npz
from xtrain.data.datasets import read_npz
from xtrain.data.statistics import channel_statistics, level_counts
from xtrain.errors import DataError


def test_medmnist_layout(sample: Path) -> None:
    dataset = read_npz(sample)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 850, "val": 150, "test": 302}
    assert dataset.shape == (28, 28, 3) and len(dataset.classes) == 9 and not dataset.pool_only
    labels = dataset.splits["train"].labels
    assert labels is not None and labels.shape == (850,) and labels.dtype == np.int64


def test_kaggle_layout_holds_test_labels_back(kaggle: Path) -> None:
    dataset = read_npz(kaggle)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 937, "test": 365}
    assert dataset.splits["test"].labels is None and dataset.pool_only


def test_keras_layout_grey(tmp_path: Path, tiny: Path) -> None:
    with np.load(tiny) as arrays:
        np.savez(
            tmp_path / "keras.npz",
            x_train=arrays["train_images"],
            y_train=arrays["train_labels"][:, None],
            x_test=arrays["test_images"],
            y_test=arrays["test_labels"],
        )
        expected = arrays["train_images"]
    dataset = read_npz(tmp_path / "keras.npz")
    assert dataset.shape == (28, 28, 1) and set(dataset.splits) == {"train", "test"}
    assert (dataset.splits["train"].images[..., 0] == expected).all()


def test_class_names_travel_in_the_file(tmp_path: Path) -> None:
    path = make_npz(tmp_path / "named.npz", class_names=np.array(["a", "b", "c"]))
    assert read_npz(path).classes == ("a", "b", "c")


def test_take_crosses_splits(sample: Path) -> None:
    dataset = read_npz(sample)
    rows = np.array([849, 850, 1001, 0])
    got = dataset.take(rows)
    parts = [dataset.splits["train"], dataset.splits["val"], dataset.splits["test"]]
    expected = [parts[0].images[849], parts[1].images[0], parts[2].images[1], parts[0].images[0]]
    assert (got.images == np.stack(expected)).all()
    assert got.labels is not None and got.labels[2] == parts[2].labels[1]  # type: ignore[index]


def test_statistics_are_those_of_the_pixels(sample: Path) -> None:
    images = read_npz(sample).splits["train"].images
    mean, std = channel_statistics(images)
    pixels = images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 7, 3), (65, 3, 3, 1)])
def test_levels_are_counted_whatever_the_shape(shape: tuple[int, ...]) -> None:
    """An odd number of pixels, and a last chunk of one image; on a device the same integers."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    counts = level_counts(images)
    for channel in range(shape[-1]):
        assert (counts[channel] == np.bincount(images[..., channel].ravel(), minlength=256)).all()


def object_array() -> np.ndarray:
    return np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"train_images": None}, "train_images"),
        ({"train_labels": None}, "train_images has no train_labels"),
        ({"train_images": np.zeros((36, 28, 28), np.float32)}, "float32"),
        ({"train_images": np.zeros((36, 28, 28, 4), np.uint8)}, r"\(36, 28, 28, 4\)"),
        ({"train_images": np.zeros((36, 30, 28), np.uint8)}, "differ in image shape"),
        ({"train_labels": np.zeros(35, np.uint8)}, "35 labels for 36 images"),
        ({"train_labels": np.zeros((36, 2), np.uint8)}, r"\(36, 2\)"),
        ({"train_labels": np.zeros(36, np.float32)}, "float32"),
        ({"train_labels": np.full(36, -1, np.int64)}, "label -1 at row 0 is outside"),
        ({"test_labels": np.full(36, 3, np.int64)}, "test label 3 at row 0 is outside the 3 classes 0-2"),
        ({"class_names": object_array()}, "Python objects, which are never loaded"),
    ],
)
def test_faults_are_named(tmp_path: Path, replace: dict[str, np.ndarray | None], message: str) -> None:
    if "train_images" in replace and replace["train_images"] is None:
        path = tmp_path / "odd.npz"
        np.savez(path, pictures=np.zeros(3))
        message = "keys pictures fit no layout"
    else:
        path = make_npz(tmp_path / "odd.npz", **replace)
    with pytest.raises(DataError, match=message) as error:
        read_npz(path)
    assert "\n" not in str(error.value) and str(path.name) in str(error.value)


def test_missing_and_corrupt_files(tmp_path: Path, sample: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "absent.npz")
    half = tmp_path / "half.npz"
    half.write_bytes(sample.read_bytes()[:100_000])
    with pytest.raises(DataError, match="not a readable .npz"):
        read_npz(half)
    flipped = bytearray(sample.read_bytes())
    flipped[200_000] ^= 0xFF
    broken = tmp_path / "broken.npz"
    broken.write_bytes(flipped)
    with pytest.raises(DataError, match="not a readable .npz"):
        read_npz(broken)
    text = tmp_path / "text.npz"
    text.write_text("not a zip")
    with pytest.raises(DataError, match="not a readable .npz"):
        read_npz(text)
