"""What a GPU needs: every library but the driver's is in the wheels of the lock, and every option exists."""

import mmap
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from serving.model import devices
from serving.model.devices import Placement, choose, cuda_options, missing_for, missing_library, tensorrt_options
from xtrain.errors import ConfigError

CAPI = Path(onnxruntime.__file__).parent / "capi"
CUDA = CAPI / "libonnxruntime_providers_cuda.so"
WHEELS = CAPI.parent.parent / "nvidia"
needs_gpu_wheel = pytest.mark.skipif(not CUDA.exists(), reason="this platform's onnxruntime has no CUDA provider")


@needs_gpu_wheel
@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_every_library_is_there_but_the_drivers() -> None:
    """As the loader sees it, all the way down, with the folders of NVIDIA's wheels to look in."""
    folders = ":".join(str(path) for path in WHEELS.glob("*/lib"))
    environment = {**os.environ, "LD_LIBRARY_PATH": folders}
    done = subprocess.run(["ldd", str(CUDA)], capture_output=True, text=True, env=environment, check=True)
    assert set(re.findall(r"(\S+) => not found", done.stdout)) <= {"libcuda.so.1"}
    for library in ("libcublas.so.13", "libcurand.so.10", "libcudart.so.13"):
        assert re.search(rf"{re.escape(library)} => {re.escape(str(WHEELS))}", done.stdout), library


@needs_gpu_wheel
def test_the_first_library_that_is_missing_is_named() -> None:
    """In a process of its own, which has loaded none of them yet."""
    program = (
        "import contextlib, sys\n"
        "from serving.model import devices\n"
        "devices.has_driver = lambda: True\n"
        "print(devices.missing_for('cuda'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()  # preload_dlls prints to stderr
    if devices.has_driver():
        assert line == ""
    else:
        assert line.startswith("CUDA cannot be loaded (libcuda.so.1: cannot open") and "xtrain[gpu]" in line
    assert "cannot open shared object file" in missing_library("cuda") or devices.has_driver()


@needs_gpu_wheel
@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("cuda", {"device_id": "0", **cuda_options(Placement(gpu_memory=1), "fp16")}),
        ("tensorrt", tensorrt_options(Placement(gpu_memory=1), Path("/models"))),
    ],
)
def test_every_option_is_one_of_the_provider(provider: str, options: dict[str, str]) -> None:
    """onnxruntime refuses a name that it does not know, but only where there is a card: looked up in the library."""
    assert len(options) >= 5
    with (
        open(CAPI / f"libonnxruntime_providers_{provider}.so", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        for name in options:
            assert text.find(name.encode() + b"\0") >= 0, name


def test_why_it_computes_where_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(Placement("cpu")).label == "the CPU"
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    choice = choose(Placement("auto"))
    assert choice.providers == ["CPUExecutionProvider"] and choice.reason
    for device in ("cuda", "tensorrt"):
        with pytest.raises(ConfigError, match=f"--device {device}: .*use --device cpu or auto"):
            choose(Placement(device))
    monkeypatch.setattr(devices, "missing_for", lambda device: "")
    choice = choose(Placement("auto", gpu_memory=7), "fp16")
    (name, options), rest = choice.providers
    assert name == "CUDAExecutionProvider" and rest == "CPUExecutionProvider" and choice.label == "CUDA"
    assert options["use_tf32"] == "0" and options["prefer_nhwc"] == "1" and options["gpu_mem_limit"] == "7"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    choice = choose(Placement("tensorrt"), cache=Path("/m"))
    assert choice.label == "TensorRT" and choice.providers[0][1]["trt_engine_cache_path"] == "/m"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")


def test_a_missing_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert missing_for("cuda") == "this onnxruntime has no CUDA; install xtrain[gpu]"
