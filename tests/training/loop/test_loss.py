import pytest
import torch
import torch.nn.functional as F

from training.config import resolve
from training.loop.loss import Loss

ROWS, CLASSES = 12, 5


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, CLASSES, generator=generator), torch.randint(CLASSES, (ROWS,), generator=generator)


def loss(**settings: object) -> Loss:
    return Loss(resolve("simplecnn", "pathmnist", **settings))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> None:
    expected = F.cross_entropy(*batch, reduction="sum", label_smoothing=smoothing)
    assert loss(label_smoothing=smoothing)(*batch) == pytest.approx(float(expected), rel=1e-6)


def test_focal_loss_is_torchvisions(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """On two classes, the softmax of (0, z) is torchvision's sigmoid of z."""
    from torchvision.ops import sigmoid_focal_loss

    logits, labels = batch[0][:, :2], batch[1] % 2
    z = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(z, labels.float(), alpha=-1, gamma=2, reduction="sum")
    assert loss(loss="focal")(logits, labels) == pytest.approx(float(expected), rel=1e-5)


def test_class_weights_are_factors_of_rows(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    weights = torch.arange(1.0, CLASSES + 1)
    config = resolve("simplecnn", "pathmnist", class_weights=True)
    expected = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
    assert Loss(config, weights)(logits, labels) == pytest.approx(float(expected), rel=1e-6)


def test_mixed_labels_are_the_loss_of_soft_targets(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    share = torch.linspace(0, 1, ROWS)
    hot = F.one_hot(labels, CLASSES).float()
    target = share[:, None] * hot + (1 - share[:, None]) * hot.roll(1, dims=0)
    expected = F.cross_entropy(logits, target, reduction="sum")
    assert loss()(logits, labels, share) == pytest.approx(float(expected), rel=1e-5)
