"""Where a model runs: onnxruntime's execution providers, and the cores that this process may use."""

import contextlib
import ctypes
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from serving.model.runtime import onnxruntime
from xtrain.errors import ConfigError, nearest

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LABELS = {"cuda": "CUDA", "tensorrt": "TensorRT"}
MAX_DEVICES = 256
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
Provider = str | tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `tensorrt`.
        threads: of one run on the CPU, at most one for each core that this process may use; 0 is as many.
        gpu_memory: bytes that onnxruntime may take of the card; 0 for no limit.
        gpu: number of the card, as `nvidia-smi` counts them unless CUDA_VISIBLE_DEVICES says otherwise; None for the
            first.
    """

    device: str = "auto"
    threads: int = 0
    gpu_memory: int = 0
    gpu: int | None = None

    def usable_threads(self) -> int:
        """Return the number of threads of one run on the CPU."""
        return min(self.threads or usable_cores(), usable_cores())


@dataclass(frozen=True)
class Choice:
    """The execution providers to ask onnxruntime for, and the reason in words."""

    providers: list[Provider]
    reason: str

    @property
    def label(self) -> str:
        """The first provider in words."""
        first = self.providers[0]
        name = first if isinstance(first, str) else first[0]
        return {provider: LABELS[device] for device, provider in PROVIDERS.items()}.get(name, "the CPU")


def choose(placement: Placement, precision: str = "fp32", cache: Path | None = None) -> Choice:
    """Return the execution providers for a device; `auto` is CUDA where it loads.

    A GPU's only where a driver is, since onnxruntime prints errors when it is asked for one without.

    Args:
        placement: the device, and the card's memory.
        precision: of the model, `fp32` or `fp16`.
        cache: folder for the engines that TensorRT builds in minutes; None for none.

    Raises:
        ConfigError: CUDA or TensorRT is asked for, and a library, the driver or onnxruntime-gpu is missing.
    """
    device = placement.device
    if device not in DEVICES:
        raise ConfigError(f"device {device!r} is unknown; {nearest(str(device), DEVICES)}")
    if device == "cpu":
        return Choice(["CPUExecutionProvider"], "the CPU was asked for")
    missing = missing_for("cuda" if device == "auto" else device)
    if missing and device in PROVIDERS:
        raise ConfigError(f"--device {device}: {missing}; use --device cpu or auto")
    if missing:
        return Choice(["CPUExecutionProvider"], missing)
    if placement.gpu is not None and placement.gpu >= (count := gpu_count()):
        raise ConfigError(f"--devices: there is no GPU {placement.gpu}; the driver has {count}, counted from 0")
    cuda = ("CUDAExecutionProvider", cuda_options(placement, precision))
    if device != "tensorrt":
        return Choice([cuda, "CPUExecutionProvider"], "CUDA and its libraries load")
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # TensorRT has no option for it
    tensorrt = (PROVIDERS["tensorrt"], tensorrt_options(placement, cache))
    return Choice([tensorrt, cuda, "CPUExecutionProvider"], "TensorRT and CUDA load")


def cuda_options(placement: Placement, precision: str) -> dict[str, str]:
    """Return the CUDA provider's options."""
    options = {
        # TF32 would round the products of a float32 model to 10 bits: not the answers that were verified.
        "use_tf32": "0",
        # An exhaustive search takes 0.6 s for each new size of a run, the heuristic 2 ms.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",  # and not the next power of two
    }
    if precision == "fp16":
        options["prefer_nhwc"] = "1"  # what tensor cores compute in
    if placement.gpu_memory:
        options["gpu_mem_limit"] = str(placement.gpu_memory)
    if placement.gpu is not None:
        options["device_id"] = str(placement.gpu)
    return options


def tensorrt_options(placement: Placement, cache: Path | None) -> dict[str, str]:
    """Return the TensorRT provider's options."""
    options: dict[str, str] = {}
    if cache is not None:
        for kind in ("engine", "timing"):
            options |= {f"trt_{kind}_cache_enable": "1", f"trt_{kind}_cache_path": str(cache)}
    if placement.gpu_memory:
        options["trt_max_workspace_size"] = str(placement.gpu_memory)
    if placement.gpu is not None:
        options["device_id"] = str(placement.gpu)
    return options


def parse_devices(text: str) -> list[int | None]:
    """Return the number of each GPU of a list such as `0,1`, or N times None for `cpu:N`; empty for an empty text.

    Raises:
        ConfigError: neither, or a GPU twice.
    """
    if not text:
        return []
    words = f"--devices {text[:50]!r} is neither a list of GPUs such as 0,1 nor cpu:N with N from 1 to {MAX_DEVICES}"
    parts = text.removeprefix("cpu:").split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= 4 for part in parts):
        raise ConfigError(words)
    numbers = [int(part) for part in parts]
    if text.startswith("cpu:"):
        if len(numbers) != 1 or not 1 <= numbers[0] <= MAX_DEVICES:
            raise ConfigError(words)
        return [None] * numbers[0]
    if len(set(numbers)) != len(numbers):
        raise ConfigError(f"--devices {text[:50]!r} names a GPU twice; --workers gives one several processes")
    return list(numbers)


def missing_for(device: str) -> str:
    """Return what `cuda` or `tensorrt` lacks here, in words; empty if nothing."""
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {LABELS[device]}; install xtrain[gpu]"
    if not has_driver():
        return f"there is no CUDA driver ({DRIVER})"
    # It finds the CUDA and cuDNN libraries that come as Python packages, and prints what it does not find.
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()
    for name in ("cuda", device):
        if library := missing_library(name):
            return f"{LABELS[name]} cannot be loaded ({library}); install xtrain[gpu]"
    return ""


def missing_library(device: str) -> str:
    """Return the loader's words for the first library that onnxruntime's provider lacks; empty if it loads.

    Asked for a provider that does not load, onnxruntime computes on the CPU and says nothing.
    """
    folder = Path(onnxruntime.__file__).parent / "capi"
    name = f"onnxruntime_providers_{device}"
    library = folder / (f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so")
    try:
        ctypes.CDLL(str(folder / library.name.replace(f"_{device}", "_shared")), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


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


def driver_version() -> str:
    """Return the newest CUDA that the driver runs, such as `13.0`; empty without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return ""
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def gpu_count() -> int:
    """Return the number of GPUs that the driver gives this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def has_driver() -> bool:
    """Return whether a CUDA driver is installed here."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True
