import numpy as np
import pytest
from scipy.stats import binomtest

from scoring.figures.comparison import compare, mcnemar
from scoring.figures.rows import ScoredRows
from tests.scoring.figures.rows import draw


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 12), (40, 40), (900, 1000), (100_000, 100_900)])
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6)


def noisier(rows: ScoredRows, share: float, seed: int) -> ScoredRows:
    """The same rows as a model sees them that guesses a share of them."""
    random = np.random.default_rng(seed)
    guessed = random.random(len(rows)) < share
    probabilities = rows.probabilities.copy()
    probabilities[guessed] = random.dirichlet(np.ones(rows.classes), guessed.sum())
    return ScoredRows(rows.labels, probabilities)


def test_a_worse_model_is_worse_in_every_figure() -> None:
    good = draw(600)
    compared = compare([good], [noisier(good, 0.5, 1)], ("good", "noisy"), 200)
    accuracy = compared.figures["accuracy"]
    assert accuracy.difference == pytest.approx(accuracy.first - accuracy.second) and accuracy.difference > 0.05
    assert compared.only_first_right[0] - compared.only_second_right[0] == round(600 * accuracy.difference)
    assert compared.p_values[0] < 1e-3
    assert compared.figures["auc"].interval[0] > 0 and compared.figures["loss"].interval[1] < 0


def test_pairing_tells_models_apart_that_single_intervals_do_not() -> None:
    """Both models meet the same hard rows, so the difference varies less than either figure."""
    good = draw(400)
    slightly = noisier(good, 0.05, 2)
    paired = compare([good], [slightly], ("a", "b"), 300).figures["loss"].interval
    alone = compare(
        [good], [ScoredRows(good.labels[::-1].copy(), slightly.probabilities[::-1].copy())], ("a", "b"), 300
    )
    assert paired[1] - paired[0] < 0.7 * (alone.figures["loss"].interval[1] - alone.figures["loss"].interval[0])


def test_a_model_does_not_differ_from_itself() -> None:
    rows = draw(100)
    compared = compare([rows], [rows], ("a", "a"), 50)
    assert compared.p_values == [1.0] and compared.figures["accuracy"].difference == 0
    assert compared.figures["accuracy"].interval is None, "no resample can tell them apart"


def test_seeds_are_compared_in_pairs() -> None:
    """The interval over seeds holds what the choice of the seed changes: three pairs that differ by more than rows."""
    rows = draw(2000)
    first = [noisier(rows, share, seed) for share, seed in ((0.1, 1), (0.3, 2), (0.6, 3))]
    second = [noisier(rows, share, seed) for share, seed in ((0.4, 4), (0.3, 5), (0.2, 6))]
    compared = compare(first, second, ("a", "b"), 200)
    assert compared.seeds == 3 and len(compared.p_values) == 3
    each = [compare([a], [b], ("a", "b"), 0).figures["accuracy"].difference for a, b in zip(first, second, strict=True)]
    accuracy = compared.figures["accuracy"]
    assert accuracy.difference == pytest.approx(np.mean(each)) and max(each) > 0.05 > -0.05 > min(each)
    alone = compare(first[:1], second[:1], ("a", "b"), 200).figures["accuracy"].interval
    assert accuracy.interval[1] - accuracy.interval[0] > 2 * (alone[1] - alone[0])
