"""The members' shares, parsed, chosen, and in the file."""

from pathlib import Path

import numpy as np
import pytest

from export.weigh import parse_weights, select_greedily
from serving.model.predictor import Predictor
from tests.conftest import Command, train
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError
from xtrain.metrics import evaluate


def test_numbers() -> None:
    assert parse_weights("0.6,0.4", 2) == pytest.approx([0.6, 0.4])
    assert parse_weights("3, 1", 2) == pytest.approx([0.75, 0.25])
    assert parse_weights("1e308,1e308", 2) == [0.5, 0.5]


@pytest.mark.parametrize("text", ["a,b", "1", "1,2,3", "1,0", "1,-1", "1,nan", "1,inf", "1,1e-9", "", "automatic"])
def test_bad_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--member-weights"):
        parse_weights(text, 2)


def test_greedy_selection_finds_what_exhaustive_search_finds() -> None:
    """Two members that err on different rows and a bad third: the best shares on a fine grid are near."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 400)
    truth = np.eye(3)[labels]
    parts = np.stack([random.dirichlet(np.ones(3), 400) * noise + truth * (1 - noise) for noise in (0.6, 0.7, 1.0)])
    weights = select_greedily(parts, labels)
    assert sum(weights) == pytest.approx(1)

    def loss(shares: list[float]) -> float:
        return evaluate(labels, np.tensordot(shares, parts, 1)).loss

    grid = [[a / 50, b / 50, 1 - (a + b) / 50] for a in range(51) for b in range(51 - a)]
    best = min(grid, key=loss)
    assert loss(weights) <= loss(best) + 1e-3
    assert loss(weights) <= loss([1 / 3] * 3) and weights[2] < 0.1


def test_one_that_only_harms_is_left_out() -> None:
    labels = np.array([0, 1, 0, 1])
    good, bad = np.eye(2)[labels] * 0.98 + 0.01, np.eye(2)[1 - labels] * 0.98 + 0.01
    assert select_greedily(np.stack([bad, good]), labels) == [0.0, 1.0]


@pytest.fixture(scope="module")
def unequal(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A trained member and one that has learned nothing."""
    folder = tmp_path_factory.mktemp("unequal")
    good = train(folder / "good", "simplecnn", "--data", sample, "--epochs", 6, "--seed", 1)
    bad = train(folder / "bad", "simplecnn", "--data", sample, "--epochs", 1, "--seed", 2, "--lr", 1e-9)
    return [bad, good]


def test_auto_leaves_the_useless_member_out(command: Command, unequal: list[Path], tmp_path: Path) -> None:
    result = command("xexport", *unequal, "-o", tmp_path / "m.onnx", "--member-weights", "auto")
    assert result.code == 0 and f"run 1, {unequal[0]}, got no weight and is left out" in result.out
    card = Predictor(tmp_path / "m.onnx").card
    assert card.weighting == "greedy" and [member.weight for member in card.members] == [1.0]
    assert (tmp_path / "m.onnx").stat().st_size < 2e6


def test_given_weights_are_in_the_graph(command: Command, unequal: list[Path], sample: Path, tmp_path: Path) -> None:
    for name, runs, weights in (("a", unequal[:1], None), ("b", unequal[1:], None), ("both", unequal, "1,3")):
        given = ["--member-weights", weights] if weights else []
        assert command("xexport", *runs, "-o", tmp_path / f"{name}.onnx", "--no-calibrate", *given).code == 0
    images = read_npz(sample).splits["test"].images
    first, second, both = (Predictor(tmp_path / f"{name}.onnx").predict(images) for name in ("a", "b", "both"))
    np.testing.assert_allclose(both, first / 4 + second * 3 / 4, atol=1e-6)
    result = command("xexport", *unequal, "-o", tmp_path / "c.onnx", "--member-weights", "1,2,3")
    assert result.code == 2 and "3 for 2 runs" in result.error
