"""What makes a step fast on a GPU, proved without one: shapes and operations on `cuda` by torch's fake tensors."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from training.config import resolve
from training.loop.distributed import Process
from training.loop.draw import Layout
from training.loop.loader import Batch
from training.loop.step import Step
from training.models.classifier import Classifier, ModelSpec
from training.policies import POLICIES

CUDA = torch.device("cuda", 0)
# Operations whose result, or its shape, is known only once the device has answered.
WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "item", "is_nonzero", "bincount")
POLICIES_TRIED = [name for name in POLICIES if name != "none"]


class Recorder(TorchDispatchMode):
    """Keeps the name of every operation, and fails at one that copies between devices or waits for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "device":  # a question to the tensor object, no operation
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        devices = {tensor.device.type for tensor in _tensors([args, kwargs, result])}
        assert devices <= {"cuda"}, f"{name} touches {devices}"
        assert not name.startswith(WAITS), f"{name} waits for the device"
        if not func.is_view and name not in ("detach", "_unsafe_view", "expand", "split"):
            self.operations.append(name)
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for entry in value for tensor in _tensors(entry)] if isinstance(value, list | tuple) else []


def fake_step(**settings: Any) -> tuple[Step, Batch]:
    """A step with its batch on a GPU that is not there; within a FakeTensorMode."""
    config = resolve("simplecnn", "unknown.npz", precision="fp32", batch_size=16, **settings)
    spec = ModelSpec("simplecnn", config.switches, tuple("abcdefghi"), (28, 28, 3), 28, None, (0.5,) * 3, (0.2,) * 3)
    with torch.device(CUDA):
        classifier = Classifier(spec)
        weights = torch.ones(9) if config.class_weights else None
        step = Step(config, classifier, Process(CUDA), weights)
        batch = Batch(
            torch.empty(16, 28, 28, 3, dtype=torch.uint8),
            torch.zeros(16, dtype=torch.long),
            torch.empty(16, step.layout.columns),
            16,
        )
    return step, batch


@pytest.mark.parametrize("augment", POLICIES_TRIED)
def test_augmentation_is_a_short_fixed_list(augment: str) -> None:
    """At most 25 operations whatever is drawn; one image after the other it were about 90."""
    with FakeTensorMode():
        step, batch = fake_step(augment=augment)
        parts, pixels = step.layout.split(batch.parts), step.classifier.preprocess.resize(batch.images)
        with Recorder() as recorded:
            step.augment(pixels, parts)
    assert 0 < len(recorded.operations) <= 25, recorded.operations


@pytest.mark.parametrize(
    "settings",
    [
        *({"augment": name} for name in POLICIES),
        {"augment": "strong", "mix": "mixup", "loss": "focal", "class_weights": True},
        {"augment": "histology", "mix": "cutmix", "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_the_forward_half_of_a_step_never_waits(settings: dict[str, Any]) -> None:
    """Gather, augment, normalise, network and loss: nothing comes from the host, nothing goes to it."""
    with FakeTensorMode():
        step, batch = fake_step(**settings)
        resident = torch.empty(100, 28, 28, 3, dtype=torch.uint8, device=CUDA)
        rows = torch.zeros(7, 16, dtype=torch.long, device=CUDA)[3]
        step.train_mode()
        with Recorder() as recorded:
            images = resident.index_select(0, rows)
            step.forward(Batch(images, batch.labels, batch.parts, 16))
    assert "convolution" in recorded.operations and "index_select" in recorded.operations


def test_the_recorder_sees_what_waits() -> None:
    """Each thing that this proof is to rule out is caught."""
    with FakeTensorMode():
        there, here = torch.ones(4, device=CUDA), torch.ones(4)
        for wrong in (
            lambda: here.to(CUDA),
            lambda: there.cpu(),
            lambda: torch.tensor([1.0, 2.0], device=CUDA),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: float(there[0]),
        ):
            with pytest.raises(Exception, match=r"touches|waits|nonzero|_local_scalar_dense"), Recorder():
                wrong()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", POLICIES)
def test_the_columns_are_what_the_policy_needs(name: str) -> None:
    layout = Layout(POLICIES[name], 3, 28)
    block = layout.draw(5, torch.Generator().manual_seed(0))
    assert block.shape == (5, layout.columns) and block.dtype == torch.float32
    assert set(layout.split(block)) == set(layout.shapes)
    assert layout.columns <= 60
