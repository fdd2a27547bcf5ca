"""One exported file, ready to answer: uint8 pixels in, probabilities out. No HTTP and no BentoML here."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.model import onnxfile
from serving.model.card import HEATMAP, INPUT, OUTPUT, read_card
from serving.process import cores
from xtrain.errors import ConfigError, ModelFileError

BATCH = 256
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class Predictor:
    """A session over one `.onnx` with a valid card.

    Attributes:
        card: what the file says of itself.
        digest: SHA-256 of the file.
        batch: rows of one run; more are run in turn.
        buckets: rows that a run is filled up to; none on the CPU, where a run costs what its rows do.
    """

    def __init__(
        self, path: str | Path, device: str = "auto", threads: int = 0, buckets: tuple[int, ...] | None = None
    ) -> None:
        """Load the file and check that it is what its card says.

        Args:
            path: the exported file.
            device: `auto`, `cpu`, `cuda` or `tensorrt`.
            threads: threads of one prediction on the CPU; 0 is one for each core that this process may use.
            buckets: sizes of runs, ascending; None is powers of two on a GPU, which plans anew for each size.

        Raises:
            ModelFileError: missing, unreadable, other bytes than the digest beside it says, weights in other files,
                no card, or a graph that contradicts the card.
            ConfigError: CUDA or TensorRT was asked for and did not load.
        """
        self.path = Path(path)
        self.card = read_card(self.path)
        self.digest = onnxfile.verify(self.path)
        providers = _providers(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads that spin for more work take a core from the server: 1.7 x the CPU seconds for the same images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only: what is wrong is raised below, not logged
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime raises a type of its own for each of its status codes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelFileError(f"{path}: onnxruntime cannot load it ({reason}); export it again") from error
        # onnxruntime falls back silently to what does load.
        if device in PROVIDERS and self.provider != PROVIDERS[device]:
            name = {"cuda": "CUDA", "tensorrt": "TensorRT"}[device]
            raise ConfigError(f"--device {device}: onnxruntime could not load {name}; use --device cpu or auto")
        largest = BATCH // self.card.views
        if buckets is None:
            powers = [2**power for power in range(BATCH.bit_length()) if 2**power < largest]
            buckets = () if self.provider == "CPUExecutionProvider" else (*powers, largest)
        self.buckets = buckets
        self.batch = min(largest, max(buckets, default=largest))
        self._check_graph()

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return str(self.session.get_providers()[0])

    def warm_up(self) -> None:
        """Run once in each size, so that no client waits for the first run's allocations and plans."""
        # The largest first: TensorRT then plans for the whole range with the next, and not again for each.
        for size in sorted(self.buckets or (1,), key=lambda size: (size != self.batch, size)):
            images = np.zeros((size, *self.card.shape), np.uint8)
            self.predict(images)
            if self.explains:
                self.explain(images)

    @property
    def explains(self) -> bool:
        """Whether the file has a heatmap to give."""
        return self.card.explain is not None

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) float32 of images (N, H, W, C) uint8 at the native size.

        Raises:
            ValueError: another dtype or shape.
            ModelFileError: the model's numbers are not numbers.
        """
        (probabilities,) = self._run(images, [OUTPUT])
        return probabilities.reshape(-1, len(self.card.classes))

    def explain(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities (N, classes), and heatmaps (N, H, W) in [0, 1] of each image's top class.

        Raises:
            ConfigError: the file was exported without --explain.
            ValueError: another dtype or shape.
            ModelFileError: the model's numbers are not numbers.
        """
        if not self.explains:
            raise ConfigError(f"{self.path}: has no heatmap; export it with --explain")
        probabilities, heatmaps = self._run(images, [OUTPUT, HEATMAP])
        height, width, _ = self.card.shape
        return probabilities.reshape(-1, len(self.card.classes)), heatmaps.reshape(-1, height, width)

    def _run(self, images: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[np.float32]]:
        """The outputs of all images, each joined along its first axis."""
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            raise ValueError(f"images are {images.dtype} {images.shape}; the model takes uint8 (N, *{self.card.shape})")
        if not len(images):
            return [np.empty(0, np.float32) for _ in outputs]
        parts = [
            self._run_one(images[start : start + self.batch], outputs) for start in range(0, len(images), self.batch)
        ]
        found = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        # A class all the same would be named, and JSON has no word for the probability.
        if not all(np.isfinite(output).all() for output in found):
            raise ModelFileError(f"{self.path}: gives numbers that are not finite; export it again")
        return found

    def _run_one(self, images: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[np.float32]]:
        """The outputs of one run, filled up with black images to the next bucket."""
        size = next((bucket for bucket in self.buckets if bucket >= len(images)), len(images))
        if size == len(images):
            return list(self.session.run(outputs, {INPUT: images}))
        filled = np.zeros((size, *images.shape[1:]), np.uint8)
        filled[: len(images)] = images
        return [output[: len(images)] for output in self.session.run(outputs, {INPUT: filled})]

    def _check_graph(self) -> None:
        height, width, channels = self.card.shape
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        wanted = [(INPUT, "tensor(uint8)", [height, width, channels])]
        if [(item.name, item.type, item.shape[1:]) for item in inputs] != wanted:
            raise ModelFileError(f"{self.path}: its input is not the card's; export it again")
        found = {item.name: item.shape for item in outputs}
        if found.get(OUTPUT, [None])[1:] != [len(self.card.classes)]:
            raise ModelFileError(f"{self.path}: its output is not the card's; export it again")
        if self.explains and found.get(HEATMAP, [None])[1:] != [1, height, width]:
            raise ModelFileError(f"{self.path}: its heatmap is not the card's; export it again")


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """The execution providers to ask for; a GPU's only where a driver is, since asking without one is noisy."""
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


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
