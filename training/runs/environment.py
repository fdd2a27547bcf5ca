"""Where a run happened: package versions, git commit, hardware. Recorded so that a figure can be traced."""

import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("xtrain", "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Environment:
    """Versions by package, commit (`-dirty` where files were changed) or None, and the device's name."""

    python: str
    packages: dict[str, str]
    git_commit: str | None
    hardware: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages a figure depends on, those not installed left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, None when it is installed from a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def describe_environment(device: torch.device) -> Environment:
    """Return the present environment."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return Environment(platform.python_version(), package_versions(), git_commit(), name)
