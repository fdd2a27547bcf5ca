"""Checks that training on a card computes what it should; each is a function that returns a `Result`.

On a CPU they are the same functions; what only a card can show is skipped with the reason.
"""

import gc
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.gpu_runs import (
    NATIVE,
    SKIPPED,
    Result,
    Run,
    Setting,
    cannot_compile,
    computing,
    judged,
    missing_package,
    synthetic,
)
from training.loop.augment import Augment
from training.loop.device import choose_precision, seed_everything, strict_float32
from training.loop.distributed import Process
from training.loop.draw import Layout
from training.loop.estimate import estimate
from training.loop.loader import Loader
from training.loop.plan import BatchShape, Shuffled, plan_epoch
from training.models.classifier import Classifier
from training.policies import POLICIES
from training.runs import checkpoint, folder
from training.runs.checkpoint import DataRecord, weights_digest
from training.runs.folder import RunFolder
from training.runs.recorder import Recorder
from xtrain.data.datasets import Split
from xtrain.data.mapping import MappedRows
from xtrain.metrics import Metrics

MODES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "deterministic": {"deterministic": True},
    "compile": {"compile": True},
}
NO_CARD = "no card here"
# Largest difference of logits from float64 as a share of the largest logit: float32 gives some 1e-6 on a CPU, and a
# card may choose Winograd's convolutions, which round more; TF32, which must be off here, gives some 1e-3.
LOGITS_TOLERANCE = 5e-4
# Values of pixels that may differ by more than a grey level: coordinates that round to the other of two pixels.
PIXELS_TOLERANCE = 1e-3
SEED_OF_DRAWS = 7
WORKSPACE = 2**30  # bytes that libraries may take beside the estimate


def two_steps(setting: Setting, model: str, mode: str) -> Result:
    """Train two updates from fresh weights: the loss is finite, every weight moves and stays finite."""
    reason = missing_package(model) or (cannot_compile(setting.device.type) if mode == "compile" else None)
    if reason:
        return Result(SKIPPED, reason)
    with computing(setting.device, deterministic=mode == "deterministic"):
        trainer = setting.run(model, **MODES[mode]).trainer(setting.device)
        network = trainer.classifier.network
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        loss, _ = trainer.train_epoch(1)
        after = dict(network.named_parameters())
        broken = [name for name, value in after.items() if not value.isfinite().all()]
        # The gradient of a bias before BatchNorm is zero but for rounding, so only weights count.
        still = [name for name, value in after.items() if value.dim() > 1 and torch.equal(value, before[name])]
    problem = f"not finite: {broken[0]}" if broken else f"did not move: {', '.join(still[:3])}" if still else None
    return judged(problem, loss=loss)


def no_waits(setting: Setting, settings: Mapping[str, Any]) -> Result:
    """Run the loop's body while torch raises at every wait for the card."""
    if not setting.cuda:
        return Result(SKIPPED, f"{NO_CARD}: waiting for a device is CUDA's")
    with computing(setting.device):
        trainer = Run("simplecnn", NATIVE, 32, updates=4, settings=settings).trainer(setting.device)
        trainer.train_epoch(1)  # the first step searches for kernels and makes the optimizer's state, which may wait
        plan, accumulate = trainer.plan(2), trainer.config.accumulate
        trainer.step.train_mode()
        total, count = torch.zeros(2, device=setting.device), 0
        with warnings.catch_warnings(action="ignore"):  # it says that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            for count, batch in enumerate(trainer.train_loader.training_batches(plan), start=1):
                updates = count % accumulate == 0
                total += trainer.step(batch, updates)
                if updates:
                    trainer.schedule.after_update()
        except RuntimeError as error:
            return judged(f"batch {count + 1} waits: {str(error).splitlines()[0]}")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        finite = bool(total.isfinite().all())
    return judged(None if finite else "the loss is not finite", batches=str(count))


def recorded(run: Run, path: Path) -> Recorder:
    """Return what writes the epochs of a run into a folder, with the records that a checkpoint has."""
    data = DataRecord("synthetic", "", "", "", "official", 0, 0.1, "", {})
    return Recorder(RunFolder(path), run.config, run.spec, data, {}, torch.zeros(0, dtype=torch.long))


def digests(setting: Setting, model: str, settings: Mapping[str, Any]) -> Result:
    """Compare the weights of two runs of four epochs, and of one of two that is resumed from its `last.pt`."""
    reason = missing_package(model)
    if reason:
        return Result(SKIPPED, reason)

    def trained(epochs: int, path: Path, resumed: Path | None = None) -> str:
        run = setting.run(model, **{"deterministic": True, "epochs": epochs, **settings})
        trainer = run.trainer(setting.device, recorded(run, path))
        if resumed:
            saved = checkpoint.load(resumed / folder.LAST)
            trainer.restore(saved, Metrics.from_json(saved.metrics))
        trainer.fit()
        return weights_digest(trainer.classifier.network.state_dict())

    with computing(setting.device, deterministic=True), tempfile.TemporaryDirectory() as place:
        paths = [Path(place, name) for name in ("first", "second", "half", "resumed")]
        for path in paths:
            path.mkdir()
        first, second = (trained(4, path) for path in paths[:2])
        trained(2, paths[2])
        resumed = trained(4, paths[3], paths[2])
    different = [name for name, digest in (("again", second), ("2 + 2", resumed)) if digest != first]
    return judged(f"other weights: {', '.join(different)}" if different else None, digest=first[:12])


def logits(setting: Setting, model: str) -> Result:
    """Compare the logits of raw images on the device, in float32, with those of the network on the CPU in float64."""
    reason = missing_package(model)
    if reason:
        return Result(SKIPPED, reason)
    run = setting.run(model)
    seed_everything(run.config.seed)
    classifier = Classifier(run.spec).eval()
    images = torch.from_numpy(synthetic(8).images[:])
    with computing(setting.device), torch.no_grad(), strict_float32():
        there = classifier.to(setting.device).to(memory_format=torch.channels_last)(images.to(setting.device)).cpu()
        classifier.cpu()
        exact = classifier.network.double()(classifier.preprocess(images).double())
        difference = float((there - exact).abs().max() / exact.abs().max())
    return judged(
        None if difference <= LOGITS_TOLERANCE else f"differ by more than {LOGITS_TOLERANCE}", difference=difference
    )


def augmentation(setting: Setting, policy: str, mix: str) -> Result:
    """Compare a batch that the device augments at once with its images augmented one at a time on the CPU."""
    layout = Layout(POLICIES[policy], 3, NATIVE, mix)
    images = torch.from_numpy(synthetic(64).images[:]).permute(0, 3, 1, 2) / 255
    block = layout.draw(len(images), torch.Generator().manual_seed(SEED_OF_DRAWS))
    one, here = Augment(layout, torch.device("cpu")), Augment(layout, setting.device)
    with computing(setting.device), strict_float32():
        single = [one(images[row : row + 1].clone(), layout.split(block[row : row + 1])) for row in range(len(images))]
        expected = one.mix(torch.cat(single), layout.split(block))
        parts = layout.split(block.to(setting.device))
        got = here.mix(here(images.clone().to(setting.device), parts), parts).cpu()  # may work in place
    share = float(((got - expected).abs() > 1 / 255).float().mean())
    changed = float((expected - images).abs().mean())
    problem = f"more than {PIXELS_TOLERANCE} of the values differ" if share > PIXELS_TOLERANCE else None
    return judged(problem or (None if changed > 0 else "nothing was changed"), differing=share, change=changed)


def memory_format(setting: Setting, model: str) -> Result:
    """Look by hooks at what every layer of a training step returns: images stay channels-last."""
    reason = missing_package(model)
    if reason:
        return Result(SKIPPED, reason)
    seen, wrong = 0, []
    with computing(setting.device):
        run = setting.run(model, precision=choose_precision("auto", setting.device))
        trainer = run.trainer(setting.device)

        def look(name: str, output: Any) -> None:
            nonlocal seen
            if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                seen += 1
                if not output.is_contiguous(memory_format=torch.channels_last):
                    wrong.append(name)

        for name, module in trainer.classifier.network.named_modules():
            module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        trainer.train_epoch(1)
    problem = f"not channels-last: {', '.join(dict.fromkeys(wrong))[:200]}" if wrong else None
    return judged(problem or (None if seen else "no layer returned images"), outputs=str(seen))


def streamed(setting: Setting, rows: int) -> Result:
    """Compare the batches of a file that is read while the device works with those of resident images."""
    split, process = synthetic(rows), Process(setting.device)
    layout, shape = Layout(POLICIES["strong"], 3, NATIVE), BatchShape.of(rows, 16, 1, 1)
    plan = plan_epoch(Shuffled(rows), shape, layout, process, torch.Generator().manual_seed(SEED_OF_DRAWS))
    factor = torch.ones(2048 if setting.cuda else 64, 2048 if setting.cuda else 64, device=setting.device)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "images.npy")
        np.save(path, split.images[:])
        mapped = MappedRows([np.load(path, mmap_mode="r")], np.arange(rows))
        loaders = [Loader(split, process, True), Loader(Split(mapped, split.labels), process, False)]
        kept: list[list[torch.Tensor]] = [[], []]
        for loader, copies in zip(loaders, kept, strict=True):
            for batch in loader.training_batches(plan):
                _ = factor @ factor  # the card lags behind, so that a buffer filled too early would show
                copies += [batch.images.clone(), batch.labels]
            copies += [images.clone() for images in loader.ordered_batches(24)]
        different = sum(not torch.equal(first, second) for first, second in zip(*kept, strict=True))
    return judged(f"{different} of {len(kept[0])} differ" if different else None, tensors=str(len(kept[0])))


def peak(setting: Setting, model: str, size: int) -> Result:
    """Compare the largest memory of a step with the estimate that a run is planned by."""
    if not setting.cuda:
        return Result(SKIPPED, f"{NO_CARD}: on a CPU only the whole process's memory is known")
    reason = missing_package(model)
    if reason:
        return Result(SKIPPED, reason)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(setting.device)
    with computing(setting.device):
        run = Run(model, size, 64, settings={"precision": choose_precision("auto", setting.device)})
        trainer = run.trainer(setting.device)
        trainer.train_epoch(1)  # searching for kernels takes memory that later steps do not
        torch.cuda.reset_peak_memory_stats(setting.device)
        trainer.train_epoch(2)
        used = torch.cuda.max_memory_allocated(setting.device) - before
        images = trainer.train_loader.images, trainer.val_loader.images
    resident = sum(tensor.nbytes for tensor in images if tensor is not None)
    expected = estimate(run.config, run.spec, resident).total
    return judged(memory_problem(used, expected), peak_mb=used / 1e6, estimate_mb=expected / 1e6, ratio=used / expected)


def memory_problem(used: int, expected: int) -> str | None:
    """Return what is wrong with the bytes of a step beside those of its estimate, None for nothing."""
    if 0.5 * expected <= used <= 1.25 * expected + WORKSPACE:
        return None
    return "outside 0.5 to 1.25 times the estimate and a workspace"


def group_of_one(setting: Setting, model: str) -> Result:
    """Train in a process group of one (NCCL on a card, else Gloo): the same weights, and collectives that return."""
    backend = "nccl" if setting.cuda else "gloo"
    if not dist.is_available() or not dist.is_backend_available(backend):
        return Result(SKIPPED, f"this torch has no {backend}")
    run = setting.run(model, deterministic=True)
    with computing(setting.device, deterministic=True), tempfile.TemporaryDirectory() as place:
        alone = run.trainer(setting.device)
        alone.train_epoch(1)
        if setting.cuda:
            torch.cuda.set_device(setting.device)
        dist.init_process_group(backend, init_method=Path(place, "store").as_uri(), rank=0, world_size=1)
        try:
            together = run.trainer(setting.device)
            together.step.network = together.step.distributed(together.step.network)
            together.train_epoch(1)
            value = torch.arange(3.0, device=setting.device)
            gathered = [torch.empty_like(value)]
            dist.all_gather(gathered, value)
            for operation in (dist.ReduceOp.SUM, dist.ReduceOp.MIN, dist.ReduceOp.MAX):
                dist.all_reduce(value, operation)
            dist.broadcast(value, 0)
            dist.barrier()
            together.step.close()
            expected = [0.0, 1.0, 2.0]
            returned = value.tolist() == gathered[0].tolist() == expected
        finally:
            gc.collect()  # DistributedDataParallel holds the group in reference cycles
            dist.destroy_process_group()
        first, second = (weights_digest(trainer.classifier.network.state_dict()) for trainer in (alone, together))
    problem = None if returned else "a collective changed its value"
    return judged(problem or (None if first == second else "other weights than without a group"), backend=backend)
