import numpy as np
import pytest
import torch

from training.loop.device import seed_everything
from training.loop.distributed import Process
from training.loop.loader import Loader, balanced, balanced_weights, shuffled
from xtrain.data.datasets import Split
from xtrain.errors import DataError

CPU = torch.device("cpu")


def split(rows: int) -> Split:
    """Every image holds its own row number."""
    images = np.arange(rows, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return Split(images, np.arange(rows, dtype=np.int64))


@pytest.mark.parametrize(("rows", "batch", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (8, 4, [4, 4]), (3, 8, [3])])
def test_batches(rows: int, batch: int, sizes: list[int]) -> None:
    """A last batch of one is left out: BatchNorm cannot train on it."""
    loader = Loader(split(rows), batch, Process(CPU))
    batches = list(loader.training_batches(torch.arange(rows)))
    assert [len(part.labels) for part in batches] == [part.global_rows for part in batches] == sizes
    assert loader.steps == len(sizes) and loader.rows_an_epoch == sum(sizes)
    for part in batches:
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)


@pytest.mark.parametrize("rows", [10, 11, 9])
def test_processes_divide_every_batch(rows: int) -> None:
    """Three processes together serve what one serves; a rest with fewer than two rows for one of them is left out."""
    order = shuffled(rows, torch.Generator().manual_seed(1))
    loaders = [Loader(split(rows), 6, Process(CPU, rank, 3)) for rank in range(3)]
    served = [[part.labels for part in loader.training_batches(order)] for loader in loaders]
    assert all(loader.steps == 1 for loader in loaders)
    for step in range(loaders[0].steps):
        together = torch.cat([own[step] for own in served])
        assert torch.equal(together.sort().values, order[6 * step : 6 * step + 6].sort().values)
    in_order = [torch.cat([part.labels for part in loader.ordered_batches(2)]) for loader in loaders]
    for rank, labels in enumerate(in_order):
        assert torch.equal(labels, torch.arange(rows)[rank::3])


def test_in_order_serves_every_row() -> None:
    labels = torch.cat([part.labels for part in Loader(split(9), 4, Process(CPU)).ordered_batches(4)])
    assert torch.equal(labels, torch.arange(9))


def test_shuffled_is_a_permutation() -> None:
    order = shuffled(100, torch.Generator().manual_seed(0))
    assert torch.equal(order.sort().values, torch.arange(100)) and not torch.equal(order, torch.arange(100))


def test_balanced_draws_all_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int64)
    weights = balanced_weights(labels, ("a", "b", "c"))
    generator = torch.Generator().manual_seed(1)
    rows = torch.cat([balanced(weights, generator) for _ in range(30)])
    counts = np.bincount(labels[rows.numpy()])
    # Each class is a third of 30,000 draws; four standard deviations are 327.
    assert np.abs(counts - 10_000).max() < 330
    # And within a class every row is drawn alike: 1,000 times each of the last ten, sd 32.
    assert np.abs(np.bincount(rows.numpy(), minlength=1000)[990:] - 1_000).max() < 150


def test_balanced_agrees_with_torchs_sampler_in_distribution() -> None:
    weights = torch.tensor([0.1, 0.4, 0.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    ours = torch.cat([balanced(weights, generator) for _ in range(10_000)]).bincount(minlength=4) / 40_000
    theirs = torch.multinomial(weights, 40_000, replacement=True, generator=generator).bincount(minlength=4) / 40_000
    assert ours[2] == 0 and torch.allclose(ours, theirs, atol=0.015)


def test_a_class_without_rows_cannot_be_balanced() -> None:
    with pytest.raises(DataError, match=r"class 1 \(b\) has no training row to balance.*--no-balance"):
        balanced_weights(np.array([0, 2, 2]), ("a", "b", "c"))


def test_randomness_is_a_function_of_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> list[float]:
        generator = seed_everything(seed, epoch)
        return [*torch.rand(2).tolist(), *torch.rand(2, generator=generator).tolist()]

    assert draw(22, 1) == draw(22, 1)
    assert len({tuple(draw(seed, epoch)) for seed in (22, 23) for epoch in (0, 1, 2)}) == 6
