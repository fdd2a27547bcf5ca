"""Where a run happened: package versions, git commit, hardware. Recorded so that a figure can be traced."""

import ctypes
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from xtrain.errors import ConfigError

PACKAGES = ("xtrain", "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Environment:
    """Versions by package, commit (`-dirty` where files were changed) or None, and the device's name."""

    python: str
    packages: dict[str, str]
    git_commit: str | None
    hardware: str

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def package_versions() -> dict[str, str]:
    """Versions of the packages a figure depends on, those not installed left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, None when it is installed from a wheel."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def describe_environment(device: torch.device) -> Environment:
    """Take down the present environment."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return Environment(platform.python_version(), package_versions(), git_commit(), name)


def choose_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into `bf16` where the hardware multiplies it natively, else `fp32`.

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
    return "bf16" if native else "fp32"


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees for the next step, for the whole process.

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
