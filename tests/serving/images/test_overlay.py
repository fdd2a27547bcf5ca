import numpy as np
from PIL import Image

from serving.images.overlay import COLOUR, STRENGTH, overlay


def test_only_where_it_is_warm() -> None:
    picture = Image.new("L", (56, 28), 100)
    heatmap = np.zeros((14, 28), np.float32)
    heatmap[:, 14:] = 1
    got = np.asarray(overlay(picture, heatmap))
    assert got.shape == (28, 56, 3)
    assert (got[:, :24] == 100).all()
    expected = np.array([100] * 3) * (1 - STRENGTH) + np.array(COLOUR) * STRENGTH
    np.testing.assert_allclose(got[:, 32:], np.broadcast_to(expected, (28, 24, 3)), atol=1.5)
