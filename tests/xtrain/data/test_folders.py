"""Pictures in folders of classes: the layouts, sizes, groups, and everything that can be wrong with them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Command
from xtrain.data import catalog
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import read_npz
from xtrain.data.folders import read_folder
from xtrain.data.mapping import MappedRows
from xtrain.data.splits import divide
from xtrain.errors import ConfigError, DataError


def picture(path: Path, seed: int, size: tuple[int, int] = (28, 28), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = (3,) if mode == "RGB" else ()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size[::-1], *bands), np.uint8)).save(path)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two classes, four patients of three pictures each in both, numbered without leading zeros."""
    for index, (label, patient, number) in enumerate((a, p, n) for a in "ab" for p in range(4) for n in (2, 10, 1)):
        picture(tmp_path / "pool" / label / f"patient{patient}_{number}.png", index)
    return tmp_path / "pool"


def test_a_pool_is_read_in_natural_order(pool: Path) -> None:
    dataset = read_folder(pool)
    assert dataset.classes == ("a", "b") and dataset.shape == (28, 28, 3) and dataset.pool_only
    assert dataset.splits["train"].labels is not None
    assert dataset.splits["train"].labels.tolist() == [0] * 12 + [1] * 12
    names = [f"patient{patient}_{number}.png" for patient in range(4) for number in (1, 2, 10)]
    expected = [np.asarray(Image.open(pool / label / name)) for label in "ab" for name in names]
    assert (dataset.splits["train"].images[:] == np.stack(expected)).all()


def test_splits_of_classes(tmp_path: Path) -> None:
    for index, split in enumerate(("Train", "validation", "test")):
        for label in ("10", "9"):
            for number in range(3):
                picture(tmp_path / "set" / split / label / "deeper" / f"{number}.png", index * 10 + number, mode="L")
    picture(tmp_path / "set" / "test" / "9" / ".hidden.png", 1)
    dataset = read_folder(tmp_path / "set")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert dataset.classes == ("9", "10") and dataset.shape == (28, 28, 1) and not dataset.pool_only


def test_pictures_become_the_pixels_that_the_service_sees(data_dir: Path, sample: Path, tmp_path: Path) -> None:
    """The real 224x224 tiles at the native size 28 are rows of PathMNIST, byte for byte."""
    import json

    record = json.loads((data_dir / "tiles" / "labels.json").read_text())
    for name, label in record["labels"].items():
        target = tmp_path / "tiles" / str(label) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / "tiles" / name, target)
    dataset = catalog.load(str(tmp_path / "tiles"), LoadOptions(shape=(28, 28, None)))
    rows = read_npz(sample).splits["test"].images[:]
    pixels = {image.tobytes() for image in dataset.splits["train"].images[:]}
    assert len(record["identical_to_sample_test_row"]) == 3
    assert all(rows[row].tobytes() in pixels for row in record["identical_to_sample_test_row"].values())


def test_a_group_is_never_in_two_splits(pool: Path) -> None:
    dataset = read_folder(pool, group_pattern=r"(patient\d+)_")
    assert dataset.groups is not None
    for seed in range(20):
        partition = divide(dataset, split_seed=seed)
        held = [set(dataset.groups[partition.rows(name)].tolist()) for name in ("train", "val", "test")]
        assert all(held) and not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
        assert sorted(np.concatenate([partition.rows(name) for name in ("train", "val", "test")])) == list(range(24))


def test_groups_across_the_splits_of_a_file_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            for patient in range(4):
                picture(tmp_path / "set" / split / label / f"p{patient}.png", patient)
    with pytest.raises(DataError, match="group.s. have images in both train and test"):
        divide(read_folder(tmp_path / "set", group_pattern=r"p\d"))


def test_large_folders_are_decoded_once_into_memory_maps(pool: Path, tmp_path: Path) -> None:
    plain = catalog.load(str(pool), LoadOptions(stream=False))
    options = LoadOptions(stream=True, data_dir=tmp_path / "cache")
    mapped = catalog.load(str(pool), options)
    assert isinstance(mapped.splits["train"].images, MappedRows) and mapped.md5 == plain.md5
    (cached,) = (tmp_path / "cache" / "unpacked").iterdir()
    before = cached.stat().st_mtime_ns
    assert (catalog.load(str(pool), options).splits["train"].images[:] == plain.splits["train"].images[:]).all()
    assert cached.stat().st_mtime_ns == before
    picture(pool / "a" / "patient0_1.png", 99)  # a changed picture is decoded anew
    os.utime(pool / "a" / "patient0_1.png", (1, 1))
    assert catalog.load(str(pool), options).md5 != plain.md5


def test_faults_name_the_file(pool: Path, tmp_path: Path) -> None:
    picture(pool / "b" / "wide.png", 1, (40, 28))
    with pytest.raises(DataError, match=r"2 sizes .*40x28.*--native-size N"):
        read_folder(pool)
    assert read_folder(pool, shape=(20, 20, None)).shape == (20, 20, 3)
    (pool / "b" / "wide.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(DataError, match=r"b/wide.png: .*remove"):
        read_folder(pool)
    with pytest.raises(DataError, match=r"b/wide.png: .*or remove the file"):
        read_folder(pool, shape=(28, 28, 3))
    (pool / "b" / "wide.png").unlink()
    with pytest.raises(ConfigError, match="is no regular expression"):
        read_folder(pool, group_pattern="(")
    with pytest.raises(DataError, match=r"a/patient0_1.png: --group-pattern 'x9' finds nothing"):
        read_folder(pool, group_pattern="x9")
    with pytest.raises(DataError, match=r"'a' is no class of the model; rename the folder to one of: c, d"):
        read_folder(pool, ["c", "d"])
    assert read_folder(pool, ["z", "b", "a"]).splits["train"].labels.tolist() == [2] * 12 + [1] * 12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no pictures"),
        ({"a.png": b""}, "pictures, but not in folders of classes"),
        ({"a/x.txt": b"text"}, "holds no pictures"),
        ({"scan/1.dcm": b""}, "DICOM, which is out of scope"),
        ({"train/a/1.png": b"", "other/a/1.png": b""}, "has splits and other"),
        ({"val/a/1.png": b""}, "no train"),
        ({"train/a/1.png": b"", "training/a/1.png": b""}, "two folders of one split"),
        ({"only/1.png": b""}, "two classes are the fewest"),
    ],
)
def test_other_structures(command: Command, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in files:
        if name.endswith(".png"):
            picture(folder / name, 1)
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(files[name])
    result = command("xtrain", "simplecnn", "--data", folder, "-o", tmp_path / "run")
    assert result.code == 1 and message in result.error and not (tmp_path / "run").exists()


def test_from_folder_to_figures(command: Command, pool: Path, tmp_path: Path) -> None:
    """Trained, exported from another folder, evaluated on the held-out patients, scored, and evaluated elsewhere."""
    run, model = tmp_path / "run", tmp_path / "m.onnx"
    groups = ["--group-pattern", "patient[0-9]+"]
    arguments = ["simplecnn", "--data", pool, "--epochs", 1, "--native-size", 20, *groups, "-o", run]
    result = command("xtrain", *arguments)
    assert result.code == 0 and "pooled protocol" in result.out
    assert command("xexport", run, "-o", model).code == 0
    result = command("xeval", model, pool)
    assert result.code == 0 and "test split, pooled protocol" in result.out and "6 images" in result.out
    elsewhere = tmp_path / "elsewhere"
    for index in range(5):
        picture(elsewhere / "b" / f"scan{index}.png", 100 + index, (50, 50))
    result = command("xeval", model, elsewhere)
    assert result.code == 0 and "all split, pooled protocol" in result.out and "5 images" in result.out
    result = command("xscore", model, elsewhere, "-o", "-")
    assert result.code == 0 and result.out.startswith("ID,CLASS\n0,") and len(result.out.splitlines()) == 6


def test_options_of_folders_mean_nothing_for_files(command: Command, tiny: Path, tmp_path: Path) -> None:
    for option in (["--native-size", "28"], ["--group-pattern", "x"]):
        result = command("xtrain", "simplecnn", "--data", tiny, "-o", tmp_path / "run", *option)
        assert result.code == 2 and f"{option[0]} is for a folder of pictures" in result.error


def test_no_class_is_left_out_in_silence(command: Command, pool: Path, tmp_path: Path) -> None:
    """A third class of pictures that are not read made a model of two, at an accuracy of 1."""
    (pool / "c").mkdir()
    with pytest.raises(DataError, match="c: holds no picture that is read .* but nothing"):
        read_folder(pool)
    for index in range(3):
        Image.new("RGB", (28, 28)).save(pool / "c" / f"patient9_{index}.gif")
    with pytest.raises(DataError, match=r"c: holds no picture that is read .* but \.gif; convert its files"):
        read_folder(pool)
    picture(pool / "c" / "patient9_9.png", 1)
    dataset = read_folder(pool)
    assert len(dataset.classes) == 3 and dataset.notes[0].startswith("3 files in the folder are no .png")
    options = ["--classes", 3, "--no-balance", "--epochs", 1, "-o", tmp_path / "run"]
    result = command("xtrain", "simplecnn", "--data", pool, *options)
    assert "note: 3 files in the folder are no .png" in result.err


def test_linked_folders_are_followed_once(pool: Path, tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "store" / f"patient7_{index}.png", 50 + index)
    (pool / "c").mkdir()
    (pool / "c" / "case").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")
    dataset = read_folder(pool)
    assert dataset.splits["train"].labels is not None and (dataset.splits["train"].labels == 2).sum() == 4


def test_a_group_that_matched_nothing_is_no_group(pool: Path) -> None:
    with pytest.raises(DataError, match="finds nothing in it"):
        read_folder(pool, group_pattern="patient(x)?")


def test_renamed_training_pictures_are_told(command: Command, pool: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "m.onnx"
    assert command("xtrain", "simplecnn", "--data", pool, "--epochs", 1, "--group-pattern", r"t\d", "-o", run).code == 0
    assert command("xexport", run, "-o", model).code == 0
    renamed = tmp_path / "renamed"
    for label in "ab":
        (renamed / label).mkdir(parents=True)
        paths = sorted((pool / label).iterdir(), key=lambda path: [int(part) for part in path.stem[7:].split("_")])
        for index, path in enumerate(paths):
            shutil.copy(path, renamed / label / f"{index}.png")
    assert "are the training pictures under other names" in command("xeval", model, renamed).error
