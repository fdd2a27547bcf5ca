import numpy as np
import pytest
import torch
from PIL import Image

from training.models.preprocess import Preprocess


def test_native_size_only_normalises() -> None:
    images = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    mean, std = (0.7, 0.5, 0.6), (0.1, 0.2, 0.3)
    got = Preprocess((28, 28), 28, None, mean, std)(images)
    expected = (images.numpy() / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("native", "size"), [(28, 224), (28, 64), (224, 28)])
def test_resizing_is_pillows_bilinear(native: int, size: int) -> None:
    """Both directions: half-pixel centres, and a low-pass filter when shrinking."""
    pixels = np.random.RandomState(0).randint(0, 256, (native, native, 3)).astype(np.uint8)
    got = Preprocess((native, native), size, None, (0, 0, 0), (1, 1, 1)).resize(torch.from_numpy(pixels)[None])
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    # Pillow rounds to whole levels after each of its two passes.
    assert np.abs(got[0].permute(1, 2, 0).numpy() * 255 - expected).max() <= 1.01


def test_centre_crop() -> None:
    preprocess = Preprocess((28, 28), 256, 224, (0.0,), (1.0,))
    images = torch.randint(0, 256, (1, 28, 28, 1), dtype=torch.uint8)
    whole = Preprocess((28, 28), 256, None, (0.0,), (1.0,))(images)
    assert preprocess.output_size == 224
    assert torch.equal(preprocess(images), whole[:, :, 16:240, 16:240])
