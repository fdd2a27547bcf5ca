"""The memory that a run will need, computed from shapes alone before it starts, and advice where it was too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from training.config import TrainConfig
from training.models.classifier import Classifier, ModelSpec
from training.optimizers import OPTIMIZERS
from xtrain.errors import TrainingError

MOST_AUTO = 1024  # images of an automatic batch; larger ones need another learning rate
AUTO_SHARE = 0.8  # of the free memory; libraries need the rest


@dataclass(frozen=True)
class Estimate:
    """Bytes by purpose. Libraries need workspace beyond this, on CUDA some 0.5-1 GB."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        """Sum of all but the number of parameters."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.images

    def as_json(self) -> dict[str, int]:
        """Return the bytes by purpose."""
        return {name: value for name, value in asdict(self).items() if name != "parameters"}


def estimate(config: TrainConfig, spec: ModelSpec, image_bytes: int) -> Estimate:
    """Return the memory of a run, from one batch on torch's meta device, which has shapes and no data.

    Args:
        config: batch size, optimizer, precision, averaging.
        spec: of the network.
        image_bytes: of the images that stay on the device.
    """
    classifier, activations = _activations(spec, config.batch_size)
    # Autocast keeps activations in half the bytes; what it keeps in float32 is small.
    width = 1.0 if config.precision == "fp32" else 0.5
    count = sum(parameter.numel() for parameter in classifier.network.parameters())
    copies = 2 if config.ema else 1
    return Estimate(
        parameters=count,
        weights=4 * count * copies,
        gradients=4 * count,
        optimizer=4 * count * OPTIMIZERS[config.optimizer].state_tensors,
        activations=int(activations * width),
        images=image_bytes,
    )


def forward_bytes(spec: ModelSpec) -> int:
    """Return what one image needs at most while the network runs forward in float32: all that training would keep."""
    return _activations(spec, 2)[1] // 2


def largest_batch(config: TrainConfig, spec: ModelSpec, free: int, rows: int) -> int:
    """Return the largest power of two of images that a batch may have, up to 1024 and to the rows there are.

    Args:
        config: optimizer, precision, averaging.
        spec: of the network.
        free: bytes that weights, optimizer and activations may take.
        rows: training rows.

    Raises:
        TrainingError: not even two images fit.
    """
    two = estimate(replace(config, batch_size=2), spec, 0)
    fitting = int((free * AUTO_SHARE - (two.total - two.activations)) / (two.activations / 2))
    if fitting < 2:
        raise TrainingError(
            f"--batch-size auto: not even two images fit the {free / 1e9:.1f} GB that are free; use a smaller model "
            "or --image-size"
        )
    return int(min(MOST_AUTO, 1 << (fitting.bit_length() - 1), max(2, 1 << (rows.bit_length() - 1))))


def _activations(spec: ModelSpec, rows: int) -> tuple[Classifier, int]:
    """Return the network on torch's meta device, and the bytes that it keeps of a batch for the backward pass."""
    with torch.device("meta"):
        classifier = Classifier(spec)
        size = classifier.preprocess.output_size
        pixels = torch.empty(rows, spec.shape[2], size, size)
        labels = torch.empty(rows, dtype=torch.long)
    own = {_storage(parameter) for parameter in classifier.network.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor
        return tensor

    def unchanged(tensor: Any) -> Any:
        return tensor

    classifier.train()
    with torch.autograd.graph.saved_tensors_hooks(record, unchanged):
        F.cross_entropy(classifier.network(pixels), labels)
    return classifier, sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _storage(tensor: torch.Tensor) -> int:
    """Return the identity of a tensor's storage: several saved tensors may be views of one."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or the host, into advice for what was being done.

    Raises:
        TrainingError: with the advice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in ("out of memory", "allocate")):
            raise
        raise TrainingError(f"out of memory {advice}") from error


def batch_advice(config: TrainConfig) -> str:
    """Return what to do where a training step needs too much."""
    return f"try --batch-size {config.batch_size // 2}" if config.batch_size > 2 else "try a smaller --image-size"
