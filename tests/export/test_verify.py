"""The gate by itself: what it lets through, what it stops, and what it says."""

import numpy as np
import pytest

from export.verify import GATES, compare, compare_heatmaps
from xtrain.errors import ExportError

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32).repeat(400, axis=0)
LABELS = np.array([0] * 400 + [2] * 400)


def moved(row: int, amount: float) -> np.ndarray:
    answer = EXPECTED.copy()
    answer[row] += np.array([amount, -amount, 0], np.float32)
    return answer


def test_figures_of_both_sides() -> None:
    parity = compare(EXPECTED, moved(5, 2e-6), LABELS, GATES["fp32"], "CPU")
    assert parity.images == 1200 and parity.max_difference == pytest.approx(2e-6, rel=0.1)
    assert (parity.accuracy_torch, parity.accuracy_onnxruntime, parity.top_class_agreement) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(("precision", "amount"), [("fp32", 2e-5), ("fp16", 6e-3)])
def test_the_worst_image_is_named(precision: str, amount: float) -> None:
    answer = moved(700, amount)
    answer[3] += np.array([amount * 0.9, 0, 0], np.float32)
    with pytest.raises(ExportError, match=r"differ by [26]\.00e-0[35] on image 700"):
        compare(EXPECTED, answer, LABELS, GATES[precision], "CPU")


def test_nan_fails() -> None:
    with pytest.raises(ExportError, match="differ by inf on image 9"):
        compare(EXPECTED, moved(9, np.nan), LABELS, GATES["fp16"], "CPU")


def test_other_top_classes() -> None:
    """Two near classes swapped by less than the difference allowed: one in 1,000 may in fp16, none in fp32."""
    expected = EXPECTED.copy()
    expected[10:20] = np.array([0.401, 0.399, 0.2], np.float32)
    answer = expected.copy()
    answer[10, :2] = answer[10, 1::-1]
    assert compare(expected, answer, LABELS, GATES["fp16"], "CPU").top_class_agreement == 1 - 1 / 1200
    answer[11, :2] = answer[11, 1::-1]
    with pytest.raises(ExportError, match="other top classes for 2 of 1200 images, the first is image 10"):
        compare(expected, answer, LABELS, GATES["fp16"], "CPU")
    expected[10:20] = np.array([0.400004, 0.399996, 0.2], np.float32)
    answer = expected.copy()
    answer[10] -= np.array([9e-6, -9e-6, 0], np.float32)
    assert compare(expected, answer, LABELS, GATES["fp32"], "CPU").top_class_agreement == 1 - 1 / 1200, "a tie is told"


def test_probabilities_that_are_none() -> None:
    """Two runtimes can agree on nonsense."""
    with pytest.raises(ExportError, match="do not sum to 1"):
        compare(EXPECTED * 0, EXPECTED * 0, LABELS, GATES["fp32"], "CPU")


def test_heatmaps() -> None:
    maps = np.linspace(0, 1, 5 * 16, dtype=np.float32).reshape(5, 4, 4)
    five = EXPECTED[::240]
    compare_heatmaps((five[:3], maps[:3]), (five, maps + 5e-3), GATES["fp32"])
    wrong = maps.copy()
    wrong[2] += 0.02
    with pytest.raises(ExportError, match="heatmaps .* on image 2"):
        compare_heatmaps((five[:3], maps[:3]), (five, wrong), GATES["fp32"])
    other = np.roll(five, 1, axis=1)  # another top class has another heatmap; that is the other gate's matter
    compare_heatmaps((five[:3], maps[:3]), (other, wrong), GATES["fp32"])
    wrong[4, 0, 0] = np.nan
    for answer in (five, other):
        with pytest.raises(ExportError, match="image 4 holds values that are no numbers"):
            compare_heatmaps((five[:3], maps[:3]), (answer, wrong), GATES["fp16"])
