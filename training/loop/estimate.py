"""The memory that a run will need, computed from shapes alone before it starts, and advice where it was too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from training.config import TrainConfig
from training.models.classifier import Classifier, ModelSpec
from training.optimizers import OPTIMIZERS
from xtrain.errors import TrainingError


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
    with torch.device("meta"):
        classifier = Classifier(spec)
        size = classifier.preprocess.output_size
        pixels = torch.empty(config.batch_size, spec.shape[2], size, size)
        labels = torch.empty(config.batch_size, dtype=torch.long)
    parameters = list(classifier.network.parameters())
    own = {_storage(parameter) for parameter in parameters}
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
    # Autocast keeps activations in half the bytes; what it keeps in float32 is small.
    width = 0.5 if config.precision == "bf16" else 1.0
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    count = sum(parameter.numel() for parameter in parameters)
    copies = 2 if config.ema else 1
    return Estimate(
        parameters=count,
        weights=4 * count * copies,
        gradients=4 * count,
        optimizer=4 * count * OPTIMIZERS[config.optimizer].state_tensors,
        activations=int(activations * width),
        images=image_bytes,
    )


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
