"""What a run will take before it starts: parameters, and memory measured on shapes alone."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from training.config import TrainConfig
from training.models.classifier import Classifier, ModelSpec

# Tensors of a parameter's size that each optimizer keeps for it.
OPTIMIZER_STATES = {"adagrad": 1, "adam": 2, "adamw": 2, "nadam": 2, "rmsprop": 1, "sgd": 1}


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
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.images


def estimate(config: TrainConfig, spec: ModelSpec, image_bytes: int) -> Estimate:
    """Run one batch on torch's meta device, which has shapes and no data, and add up what backward would keep.

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

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor
        return tensor

    def give(tensor: Any) -> Any:
        return tensor

    classifier.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, give):
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
        optimizer=4 * count * OPTIMIZER_STATES[config.optimizer],
        activations=int(activations * width),
        images=image_bytes,
    )


def _storage(tensor: torch.Tensor) -> int:
    """Which memory a tensor lies in: several saved tensors may be views of one."""
    return int(tensor.untyped_storage()._cdata)
