from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xtrain.data import catalog
from xtrain.data.datasets import Dataset, Split, read_npz
from xtrain.data.splits import divide, select
from xtrain.errors import ConfigError, DataError


def test_official_keeps_the_files_splits(sample: Path) -> None:
    dataset = read_npz(sample)
    divided = divide(dataset)
    assert divided.protocol == "official"
    assert (select(dataset, divided, "test").images == dataset.splits["test"].images).all()
    assert (select(dataset, divided, "val").images == dataset.splits["val"].images).all()


def test_pooled_covers_every_row_once(sample: Path) -> None:
    dataset = read_npz(sample)
    divided = divide(dataset, "pooled")
    rows = np.concatenate([divided.train, divided.val, divided.test])
    assert (np.sort(rows) == np.arange(1302)).all()
    assert (len(divided.train), len(divided.val), len(divided.test)) == (750, 187, 365)


def test_pooled_has_the_papers_sizes_on_the_full_set() -> None:
    images = np.zeros((107_180, 1, 1, 1), np.uint8)
    labels = np.zeros(107_180, np.int64)
    cuts = {"train": slice(0, 89_996), "val": slice(89_996, 100_000), "test": slice(100_000, None)}
    full = Dataset("full", {name: Split(images[cut], labels[cut]) for name, cut in cuts.items()}, ("0",), "md5")
    divided = divide(full, "pooled")
    assert len(divided.train) + len(divided.val) == 77_180 and len(divided.test) == 30_000
    assert len(divided.val) == 15_436


def test_the_rows_are_frozen(sample: Path) -> None:
    """The permutation is part of what a checkpoint means; these values may never change."""
    dataset = replace(read_npz(sample), md5="85adcb3d51e39e0a3f2e36f568a77c8a")
    divided = divide(dataset, "pooled")
    assert divided.train[:5].tolist() == [150, 1025, 831, 1271, 720] and divided.digest == "64807470bdd2389f"


def test_seed_and_fraction_change_the_digest(sample: Path) -> None:
    dataset = read_npz(sample)
    digests = {
        divide(dataset).digest,
        divide(dataset, "pooled").digest,
        divide(dataset, "pooled", split_seed=23).digest,
        divide(dataset, "pooled", val_fraction=0.1).digest,
    }
    assert len(digests) == 4
    assert divide(dataset, "pooled").digest == divide(dataset, "pooled").digest


def test_kaggle_test_rows_stay_apart(kaggle: Path) -> None:
    dataset = read_npz(kaggle)
    divided = divide(dataset)
    assert divided.protocol == "pooled" and (divided.test == np.arange(937, 1302)).all()
    assert select(dataset, divided, "test").labels is None
    assert select(dataset, divided, "train").labels is not None


def test_a_missing_validation_split_is_carved_from_training() -> None:
    dataset = catalog.load("digits")
    divided = divide(dataset, val_fraction=0.25)
    learn = len(divided.train) + len(divided.val)
    assert len(divided.val) == round(learn * 0.25)
    assert not set(divided.val) & set(divided.train)


def test_protocols_a_file_cannot_follow(kaggle: Path) -> None:
    with pytest.raises(ConfigError, match="--protocol pooled"):
        divide(read_npz(kaggle), "official")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        divide(read_npz(kaggle), val_fraction=1.5)


def test_an_empty_split_is_named(sample: Path) -> None:
    dataset = read_npz(sample)
    train_only = Dataset("part", {"train": dataset.splits["train"]}, dataset.classes, dataset.md5)
    with pytest.raises(DataError, match=r"the test split \(official\) is empty; splits with rows: train, val"):
        select(train_only, divide(train_only), "test")
