"""Where a model runs: onnxruntime's execution providers, and the cores that this process may use."""

import ctypes
import math
import os
import sys
from pathlib import Path

import onnxruntime

from xtrain.errors import ConfigError, nearest

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LABELS = {"cuda": "CUDA", "tensorrt": "TensorRT"}


def execution_providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return the execution providers to ask onnxruntime for.

    A GPU's only where a driver is, since onnxruntime prints errors when it is asked for one without.

    Raises:
        ConfigError: CUDA or TensorRT is asked for, and there is no driver or no onnxruntime-gpu.
    """
    if device not in DEVICES:
        raise ConfigError(f"device {device!r} is unknown; {nearest(str(device), DEVICES)}")
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and _has_driver():
        onnxruntime.preload_dlls()  # finds the CUDA and cuDNN libraries that come as Python packages
        # TF32 would round the products of a float32 model to 10 bits: not the answers that were verified.
        cuda: list[str | tuple[str, dict[str, str]]] = [
            ("CUDAExecutionProvider", {"use_tf32": "0"}),
            "CPUExecutionProvider",
        ]
        return [PROVIDERS["tensorrt"], *cuda] if device == "tensorrt" else cuda
    if device in PROVIDERS:
        raise ConfigError(f"--device {device}: no CUDA driver or no onnxruntime-gpu is here; use --device cpu or auto")
    return ["CPUExecutionProvider"]


def check_provider(device: str, provider: str) -> None:
    """Refuse a provider that onnxruntime fell back to silently.

    Raises:
        ConfigError: `device` was asked for and `provider` is another.
    """
    if device in PROVIDERS and provider != PROVIDERS[device]:
        raise ConfigError(f"--device {device}: onnxruntime could not load {LABELS[device]}; use --device cpu or auto")


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores that this process may use: a container's quota of a large machine is not the machine.

    Args:
        cgroup: where the kernel tells the container's quota (`cpu.max`, or the two files of its first version).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return cores  # no quota: no such file, or "max"
    return min(cores, limit) if limit > 0 else cores  # -1 is none, too


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
