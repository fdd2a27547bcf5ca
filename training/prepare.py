"""From a configuration to the rows and the network that it means: data loaded, divided, checked, nothing left open."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig, check_config
from training.loop.distributed import Process, first_of_machine
from training.loop.plan import class_counts
from training.loop.trainer import Splits
from training.models.architecture import IMAGENET_MEAN, IMAGENET_STD
from training.models.classifier import ModelSpec
from training.models.registry import find, find_recipe
from training.runs.checkpoint import DataRecord
from xtrain.data import catalog
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import Dataset, Images, Labels
from xtrain.data.splits import SPLIT_SEED, VAL_FRACTION, Partition, divide, select
from xtrain.data.statistics import channel_statistics, statistics_of
from xtrain.errors import ConfigError, DataError

COUNTED_ROWS = 256  # of which the levels are counted on a device at one time


@dataclass(frozen=True)
class Prepared:
    """A configuration in which nothing is left open, and the data it works on; `notes` are what a user should know."""

    config: TrainConfig
    splits: Splits
    record: DataRecord
    spec: ModelSpec
    notes: tuple[str, ...] = ()

    @property
    def input_size(self) -> int:
        """Side of the network's input in pixels."""
        return self.spec.crop or self.spec.image_size

    @property
    def image_bytes(self) -> int:
        """Bytes of the images of both splits."""
        return self.splits.train.images.nbytes + self.splits.val.images.nbytes


def prepare(config: TrainConfig, stream: bool | None = None, process: Process | None = None) -> Prepared:
    """Load and divide the data, and settle what the configuration leaves to it.

    Args:
        config: as `resolve` gave it.
        stream: whether images are read from disk as they are needed; None if they do not fit the memory.
        process: this one among those that train together; the first of each machine fetches and unpacks for all.

    Raises:
        XtrainError: of the fitting kind, before anything is written.
    """
    with first_of_machine(process) if process else nullcontext():
        dataset = catalog.load(config.data, load_options(config, stream))
    partition = divide(dataset, config.protocol, split_seed=config.split_seed, val_fraction=config.val_fraction)
    _refuse_idle_division(config, partition)
    splits = Splits(select(dataset, partition, "train"), select(dataset, partition, "val"))
    if splits.train.labels is None or splits.val.labels is None:
        raise DataError(f"{dataset.name}: training and validation rows need labels")
    if len(splits.train) < 2:
        raise DataError(f"{dataset.name}: one training row is too few; batches need at least 2")
    if config.classes is None:
        _refuse_absent_classes(dataset, splits.train.labels)
    augment = config.augment
    if augment is None:
        default = find_recipe(find(config.model), config.recipe).values()["augment"]
        augment = "none" if dataset.upright else default
    height, width, _ = dataset.shape
    size = config.image_size or max(height, width)
    config = replace(config, augment=augment, protocol=partition.protocol, image_size=size)
    check_config(config)
    spec = _model_spec(config, dataset, splits.train.images, process.device if process else torch.device("cpu"))
    return Prepared(config, splits, _data_record(config, dataset, partition), spec, dataset.notes)


def load_options(config: TrainConfig, stream: bool | None = None) -> LoadOptions:
    """Return how the data of a run is read, in training and when it is exported."""
    return LoadOptions(
        data_dir=config.data_dir,
        stream=stream,
        class_count=config.classes,
        shape=(config.native_size, config.native_size, None),
        group_pattern=config.group_pattern,
    )


def _refuse_idle_division(config: TrainConfig, partition: Partition) -> None:
    """Refuse options of a division that the file has made itself.

    Raises:
        ConfigError: with the option.
    """
    for flag, changed, used in (
        ("--val-fraction", config.val_fraction != VAL_FRACTION, partition.uses_fraction),
        ("--split-seed", config.split_seed != SPLIT_SEED, partition.uses_seed),
    ):
        if changed and not used:
            raise ConfigError(
                f"{flag} does nothing here: the data has its own validation split under the {partition.protocol} "
                "protocol; leave it out or use --protocol pooled"
            )


def _refuse_absent_classes(dataset: Dataset, labels: Labels) -> None:
    """Refuse classes that no training row has: a label that is a mistake makes them, and a model cannot learn them.

    Raises:
        DataError: naming them.
    """
    classes = dataset.classes
    absent = [index for index, count in enumerate(class_counts(labels, len(classes))) if not count]
    if absent:
        shown = ", ".join(f"{index} ({classes[index]})" for index in absent[:5])
        more = f" and {len(absent) - 5} others" if len(absent) > 5 else ""
        raise DataError(
            f"{dataset.name}: class {shown}{more} of {len(classes)} has no training row; correct the labels, add rows, "
            f"or train without them: --classes {len(classes)} --no-balance"
        )


def _model_spec(config: TrainConfig, dataset: Dataset, train_images: Images, device: torch.device) -> ModelSpec:
    """Settle the statistics from the training rows, and from no other rows."""
    mean, std = _statistics(config, train_images, dataset.shape[2], device)
    assert config.image_size is not None
    return ModelSpec(
        architecture=config.model,
        switches=config.switches,
        classes=dataset.classes,
        shape=dataset.shape,
        image_size=config.image_size,
        crop=config.crop,
        mean=mean,
        # A constant channel has no deviation; dividing by 1 leaves it constant instead of infinite.
        std=tuple(value or 1.0 for value in std),
    )


def _statistics(
    config: TrainConfig, images: Images, channels: int, device: torch.device
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation a channel; of published ones, grey images get the average of the colours."""
    if config.statistics == "dataset" and device.type == "cpu":
        return channel_statistics(images)
    if config.statistics == "dataset":
        return statistics_of(device_level_counts(images, device))
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    published = find(config.model).weights
    if config.statistics == "pretrained" and published:
        mean, std = published.mean, published.std
    return (mean, std) if channels == 3 else ((sum(mean) / 3,), (sum(std) / 3,))


def device_level_counts(images: Images, device: torch.device) -> NDArray[np.int64]:
    """Return the pixels of each level (channels, 256), counted on a device: the same integers, sooner."""
    counts = torch.zeros(images.shape[-1], 256, dtype=torch.long, device=device)
    for start in range(0, len(images), COUNTED_ROWS):
        part = torch.from_numpy(images[start : start + COUNTED_ROWS]).to(device)
        for channel, count in enumerate(counts):
            count += torch.bincount(part[..., channel].flatten(), minlength=256)
    counted: NDArray[np.int64] = counts.cpu().numpy()
    return counted


def _data_record(config: TrainConfig, dataset: Dataset, partition: Partition) -> DataRecord:
    """Return what identifies the data and its division."""
    return DataRecord(
        name=dataset.name,
        md5=dataset.md5,
        licence=dataset.licence,
        source=dataset.source,
        protocol=partition.protocol,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        split_digest=partition.digest,
        rows={name: len(partition.rows(name)) for name in ("train", "val", "test")},
        group_pattern=config.group_pattern,
    )
