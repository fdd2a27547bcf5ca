"""One exported file, ready to answer: uint8 pixels in, probabilities out. No HTTP and no BentoML here."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.card import INPUT, KEY, OUTPUT, Card
from training.errors import ConfigError, ModelFileError

BATCH = 256


class Predictor:
    """A session over one `.onnx` with a valid card."""

    def __init__(self, path: str | Path, device: str = "auto", threads: int = 0) -> None:
        """Load the file and check that it is what its card says.

        Args:
            path: the exported file.
            device: `auto`, `cpu` or `cuda`.
            threads: threads of one prediction on the CPU; 0 is one a core.

        Raises:
            ModelFileError: missing, unreadable, no card, or a graph that contradicts the card.
            ConfigError: CUDA was asked for and did not load.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelFileError(f"{path}: no such file; name an .onnx that xexport wrote")
        providers = _providers(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: what is wrong is raised below, not logged
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime raises a type of its own for each of its status codes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelFileError(f"{path}: onnxruntime cannot load it ({reason}); export it again") from error
        # onnxruntime falls back to the CPU silently when CUDA cannot load.
        if device == "cuda" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise ConfigError("--device cuda: onnxruntime could not load CUDA; use --device cpu or auto")
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ModelFileError(f"{path}: has no card; it was not written by xexport")
        self.card = Card.from_json(text, str(path))
        self._check_graph()

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return str(self.session.get_providers()[0])

    def warm_up(self) -> None:
        """Run once, so that no client waits for the first run's allocations."""
        self.predict(np.zeros((1, *self.card.shape), np.uint8))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) float32 of images (N, H, W, C) uint8 at the native size.

        Raises:
            ValueError: another dtype or shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            raise ValueError(f"images are {images.dtype} {images.shape}; the model takes uint8 (N, *{self.card.shape})")
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.float32)
        parts = [
            self.session.run([OUTPUT], {INPUT: images[start : start + BATCH]})[0]
            for start in range(0, len(images), BATCH)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _check_graph(self) -> None:
        height, width, channels = self.card.shape
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        wanted = [(INPUT, "tensor(uint8)", [height, width, channels])]
        if [(item.name, item.type, item.shape[1:]) for item in inputs] != wanted:
            raise ModelFileError(f"{self.path}: its input is not the card's; export it again")
        found = {item.name: item.shape for item in outputs}
        if found.get(OUTPUT, [None])[1:] != [len(self.card.classes)]:
            raise ModelFileError(f"{self.path}: its output is not the card's; export it again")


def _providers(device: str) -> list[str]:
    """The execution providers to ask for; CUDA only where a driver is, since asking without one is noisy."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and _has_driver():
        onnxruntime.preload_dlls()  # finds the CUDA and cuDNN libraries that come as Python packages
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if device == "cuda":
        raise ConfigError("--device cuda: no CUDA driver or no onnxruntime-gpu is here; use --device cpu or auto")
    return ["CPUExecutionProvider"]


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
