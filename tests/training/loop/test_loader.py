import numpy as np
import pytest
import torch

from training.loop.device import seed_everything
from training.loop.distributed import Process
from training.loop.draw import Layout
from training.loop.loader import Loader
from training.loop.plan import Balanced, BatchShape, Shuffled, balanced_weights, class_weights, plan_epoch
from training.policies import POLICIES
from xtrain.data.datasets import Split
from xtrain.errors import DataError

CPU = torch.device("cpu")


def split(rows: int) -> Split:
    """Every image holds its own row number."""
    images = np.arange(rows, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return Split(images, np.arange(rows, dtype=np.int64))


NOTHING = Layout(None, 1, 2)


def labels_of(rows: int, batch: int, process: Process, accumulate: int = 1) -> list[torch.Tensor]:
    """The labels of an epoch's batches."""
    shape = BatchShape.of(rows, batch, accumulate, process.world_size)
    plan = plan_epoch(Shuffled(rows), shape, NOTHING, process, torch.Generator().manual_seed(1))
    batches = list(Loader(split(rows), process).training_batches(plan))
    for part in batches:
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels) and part.global_rows == shape.rows
    return [part.labels for part in batches]


@pytest.mark.parametrize(
    ("rows", "batch", "accumulate", "sizes"),
    [
        (10, 4, 1, [4] * 3),
        (9, 4, 1, [4] * 3),
        (8, 4, 1, [4] * 2),
        (3, 8, 1, [3]),
        (10, 4, 2, [4] * 4),
        (2, 2, 3, [2] * 3),
    ],
)
def test_every_batch_has_one_shape(rows: int, batch: int, accumulate: int, sizes: list[int]) -> None:
    """The last one is filled from the next order, and every row is there once before any comes twice."""
    served = labels_of(rows, batch, Process(CPU), accumulate)
    assert [len(part) for part in served] == sizes
    assert torch.equal(torch.cat(served)[:rows].sort().values, torch.arange(rows))


@pytest.mark.parametrize("rows", [12, 11, 7])
def test_processes_divide_every_batch(rows: int) -> None:
    """Three processes together serve what one serves, each batch alike."""
    one = labels_of(rows, 6, Process(CPU))
    served = [labels_of(rows, 6, Process(CPU, rank, 3)) for rank in range(3)]
    for step, whole in enumerate(one):
        for rank in range(3):
            assert torch.equal(served[rank][step], whole[rank::3])
    for rank in range(3):
        images = torch.cat(list(Loader(split(rows), Process(CPU, rank, 3)).ordered_batches(2)))
        assert torch.equal(images[:, 0, 0, 0].long(), torch.arange(rows)[rank::3])


def test_too_few_rows_for_the_processes() -> None:
    with pytest.raises(DataError, match="5 training rows are too few for 3 processes; use at least 6"):
        BatchShape.of(5, 64, 1, 3)


def test_in_order_serves_every_row() -> None:
    images = torch.cat([part.clone() for part in Loader(split(9), Process(CPU)).ordered_batches(4)])
    assert torch.equal(images[:, 0, 0, 0].long(), torch.arange(9))


@pytest.mark.parametrize("policy", ["none", "strong"])
def test_processes_share_one_draw(policy: str) -> None:
    """Rank r of 2 augments its images with the numbers that one process would have given them."""
    layout, shape = Layout(POLICIES[policy], 3, 28), BatchShape(6, 4)
    plans = [
        plan_epoch(Shuffled(20), shape, layout, process, torch.Generator().manual_seed(3))
        for process in (Process(CPU), Process(CPU, 0, 2), Process(CPU, 1, 2))
    ]
    for rank in range(2):
        assert torch.equal(plans[1 + rank].parts, plans[0].parts[:, rank::2])
        assert torch.equal(plans[1 + rank].rows, plans[0].rows[:, rank::2])


def test_shuffled_is_a_permutation() -> None:
    order = Shuffled(100)(100, torch.Generator().manual_seed(0))
    assert torch.equal(order.sort().values, torch.arange(100)) and not torch.equal(order, torch.arange(100))


def test_balanced_draws_all_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int64)
    weights = balanced_weights(labels, ("a", "b", "c"))
    generator = torch.Generator().manual_seed(1)
    rows = Balanced(weights)(30_000, generator)
    counts = np.bincount(labels[rows.numpy()])
    # Each class is a third of 30,000 draws; four standard deviations are 327.
    assert np.abs(counts - 10_000).max() < 330
    # And within a class every row is drawn alike: 1,000 times each of the last ten, sd 32.
    assert np.abs(np.bincount(rows.numpy(), minlength=1000)[990:] - 1_000).max() < 150


def test_balanced_agrees_with_torchs_sampler_in_distribution() -> None:
    weights = torch.tensor([0.1, 0.4, 0.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    ours = Balanced(weights)(40_000, generator).bincount(minlength=4) / 40_000
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


def test_class_weights_average_to_one_over_the_rows() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int64)
    weights = class_weights(labels, ("a", "b", "c"))
    assert weights[torch.from_numpy(labels)].mean() == pytest.approx(1) and weights[2] / weights[0] == pytest.approx(90)


def test_balanced_draws_are_torchs_for_one_epoch() -> None:
    """A figure of an epoch never depends on how many rows its last batch was filled with."""
    weights, generator = torch.ones(10, dtype=torch.float64), torch.Generator()
    short = Balanced(weights)(10, generator.manual_seed(4))
    assert torch.equal(short, Balanced(weights)(16, generator.manual_seed(4))[:10])
