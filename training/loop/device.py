"""The device and how it computes: choosing it, precision, determinism, and seeds as a function of (seed, epoch)."""

import ctypes
import gc
import os
import platform
import random
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from xtrain.errors import ConfigError

# What autocast computes in; float32 needs none.
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into `bf16` where the hardware multiplies it natively, else `fp16` on a GPU and `fp32` on a CPU.

    On a CPU with AVX512-BF16, autocast gave 1.4-1.6 x the training images a second; without it, it is emulated
    and slower.
    """
    if name != "auto":
        return name
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bf16" if native else "fp16" if device.type == "cuda" else "fp32"


def set_up(device: torch.device, deterministic: bool) -> None:
    """Choose how the process computes on a device, before its first use."""
    if deterministic:
        make_deterministic()
    if device.type == "cpu":
        keep_freed_memory()
        return
    torch.backends.cudnn.benchmark = not deterministic  # every step has one shape, so the search is paid once
    # Convolutions of a float32 training step may round their factors to TF32, as is torch's own default; matrix
    # products may not: they are a small part of the time, and augmentation computes coordinates with them.
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def strict_float32() -> Iterator[None]:
    """Compute float32 convolutions in float32 on a GPU too, not in TF32: for figures that are reported."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def peak_memory(device: torch.device) -> int:
    """Return the largest number of bytes in use so far: torch's tensors on a GPU, the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees for the next step, for the whole process.

    Activations are far above malloc's threshold for mapping each block anew; their page faults took up to a fifth
    of a training step on the CPU. A no-op where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


def make_deterministic() -> None:
    """Ask every library for the same bits on every run; before the first use of CUDA.

    Raises at a call that has no deterministic form. On the CPU the loop is deterministic without it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device that works.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("--device cuda: no usable CUDA device is here; use --device cpu or auto")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # each of torchrun's processes has its own


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> torch.Generator:
    """Seed every global generator for one epoch; return the CPU generator for sampling and augmentation.

    Going on after epoch k so needs no saved random state.

    Args:
        seed: the run's seed.
        epoch: 0 for building the network, 1, 2, … for the epochs.
        rank: of this process; dropout differs between processes, the returned generator does not.
    """
    # SeedSequence spreads neighbouring (seed, epoch) pairs over unrelated streams.
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed + 7919 * rank)
    return torch.Generator().manual_seed(mixed + 1)


def release() -> None:
    """Free what a finished run leaves behind: its tensors in reference cycles, and the graphs compiled for it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if "torch._dynamo" in sys.modules:  # whose import takes seconds
        torch.compiler.reset()  # else the network of each further run counts as one more variant of the same code
