"""One training step: gathered pixels to updated weights, a fixed list of operations on the device.

Nothing in it copies between host and device, makes a tensor of Python numbers or depends on a value on the device:
what is random was drawn before (`plan`), and what is read is read once an epoch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainConfig
from training.loop.augment import Augment
from training.loop.average import MovingAverage
from training.loop.device import AUTOCAST
from training.loop.distributed import Process
from training.loop.draw import Layout
from training.loop.loader import Batch
from training.loop.loss import Loss
from training.loop.memory_order import MemoryOrder
from training.models.classifier import Classifier
from training.optimizers import make_optimizer
from training.policies import POLICIES

Network = Callable[[torch.Tensor], torch.Tensor]


class Step:
    """Holds what an update needs: the network as it is called, optimizer, loss, augmentation and moving average."""

    def __init__(
        self, config: TrainConfig, classifier: Classifier, process: Process, class_weights: torch.Tensor | None = None
    ) -> None:
        """Prepare a classifier that lies on the process's device; it is trained in place.

        Args:
            config: what to compute.
            classifier: its network is replaced where BatchNorm is to be synchronised.
            process: this one among those that train together.
            class_weights: factor (classes,) of each class's loss.
        """
        self.config, self.classifier, self.process = config, classifier, process
        if config.sync_bn and process.world_size > 1 and process.device.type == "cuda":
            # BatchNorm over the global batch, as in one process; Gloo on the CPU has no such layer.
            classifier.network = nn.SyncBatchNorm.convert_sync_batchnorm(classifier.network)  # type: ignore[no-untyped-call]
        size, channels = classifier.preprocess.output_size, classifier.spec.shape[2]
        self.layout = Layout(POLICIES[config.augment or "none"], channels, size, config.mix, config.mix_alpha)
        self.augment = Augment(self.layout, process.device)
        self.loss = Loss(config, class_weights)
        self.average = MovingAverage(classifier, config.ema) if config.ema else None
        self.order = MemoryOrder(classifier.network.parameters())
        self.optimizer = make_optimizer(config.optimizer, self.order.views, config.lr, vars(config))
        self.autocast = AUTOCAST[config.precision]
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=config.precision == "fp16")
        self.network: Network = classifier.network
        self.prepare(frozen=False)

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def prepare(self, frozen: bool) -> None:
        """Compile and distribute the network as asked; `frozen` trains its last layer alone."""
        head = set(self.classifier.last_layer.parameters())
        for parameter in self.classifier.network.parameters():
            parameter.requires_grad_(not frozen or parameter in head)
        self.frozen = frozen
        network: Network = self.classifier.network
        if self.config.compile:
            network = torch.compile(self.classifier.network)
        self.network = self.distributed(network) if self.process.world_size > 1 else network

    def distributed(self, network: Network) -> DistributedDataParallel:
        """Return the network with the exchange of gradients between processes."""
        return DistributedDataParallel(
            network if isinstance(network, nn.Module) else self.classifier.network,
            device_ids=[self.process.device] if self.process.device.type == "cuda" else None,
            broadcast_buffers=False,  # once an epoch is enough: see `Trainer.train_epoch`
            gradient_as_bucket_view=True,
            static_graph=self.config.accumulate == 1,  # it cannot leave the exchange out of some backward passes
        )

    def train_mode(self) -> None:
        """Switch layers to training; the BatchNorms of frozen layers keep their statistics."""
        self.classifier.train()
        if self.frozen:
            self.classifier.network.eval()
            self.classifier.last_layer.train()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss of this process's rows and how many of them are right, both on the device."""
        preprocess, parts = self.classifier.preprocess, self.layout.split(batch.parts)
        with torch.no_grad():
            pixels = preprocess.normalise(self.augment(preprocess.resize(batch.images), parts))
            pixels = self.augment.mix(pixels, parts)
            pixels = pixels.to(self.autocast or pixels.dtype, memory_format=torch.channels_last)
        with torch.autocast(self.process.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.network(pixels)
        logits = logits.float()
        summed = self.loss(logits, batch.labels, parts["mix"][:, 3] if "mix" in parts else None)
        return summed, (logits.detach().argmax(dim=1) == batch.labels).sum()

    def __call__(self, batch: Batch, update: bool = True) -> torch.Tensor:
        """Add a batch's gradients and, at the end of an accumulation, update the weights.

        Returns:
            (2,) on the device: the summed loss of this process's rows, and how many of them are right.
        """
        with nullcontext() if update else self._not_exchanged():
            summed, right = self.forward(batch)
            # DDP averages over processes; this makes the gradient that of the mean over all rows of an update.
            rows = batch.global_rows * self.config.accumulate
            self.scaler.scale(summed * (self.process.world_size / rows)).backward()  # type: ignore[no-untyped-call]
        if update:
            self._update()
        return torch.stack((summed.detach(), right.to(summed.dtype)))

    def _update(self) -> None:
        self.order.take_gradients()
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.classifier.network.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.order.drop_gradients()
        if self.average:
            self.average.update()

    @contextmanager
    def _not_exchanged(self) -> Iterator[None]:
        """Keep gradients to this process until the last batch of an accumulation."""
        with self.network.no_sync() if isinstance(self.network, DistributedDataParallel) else nullcontext():
            yield

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state, its tensors in the shapes of the parameters."""
        return self.order.state_dict(self.optimizer)

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `optimizer_state` returned."""
        self.order.load_state_dict(self.optimizer, state)

    def close(self) -> None:
        """Let go of DistributedDataParallel and its process group."""
        self.network = self.classifier.network
