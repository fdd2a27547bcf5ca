"""One exported file, loaded: images in, probabilities, labels or heatmaps out. No HTTP and no BentoML here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.model import onnxfile
from serving.model.card import HEATMAP, INPUT, OUTPUT, card_of
from serving.model.devices import LABELS, PROVIDERS, Choice, Placement, check_provider, choose
from serving.model.runtime import onnxruntime
from serving.model.signature import PublicKey
from xtrain.errors import ConfigError, ModelFileError
from xtrain.images import convert_image, fit, read_image

MAX_RUN = 256  # images of one run, views counted
# Largest difference of a reference image's probability: float32 sums in another order, float16's own spacing.
REFERENCE_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}

Picture = str | Path | Image.Image
ImageInput = NDArray[np.uint8] | Picture | Sequence[Picture]


class Predictor:
    """An onnxruntime session over one `.onnx` with a valid card.

    Attributes:
        card: what the file says of itself.
        digest: SHA-256 of the file.
        size: of the file in bytes.
        reason: why it runs where it runs, in words.
        max_run: images of one run; more are run in turn.
        buckets: sizes that a run is padded to; none on the CPU, where a run costs what its images do.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | Placement = "auto",
        max_batch: int = MAX_RUN,
        buckets: tuple[int, ...] | None = None,
        key: PublicKey | None = None,
    ) -> None:
        """Load the file and check that it is what its card says.

        Args:
            path: the exported file.
            device: `auto`, `cpu`, `cuda` or `tensorrt`, or more of where it runs.
            max_batch: images of the largest run that will be asked for.
            buckets: sizes of runs, ascending; None is powers of two up to `max_batch` on a GPU, which plans anew for
                each size.
            key: by which the file must be signed, before a runtime reads it; None for any file.

        Raises:
            ModelFileError: missing, unreadable, other bytes than the digest beside it says, weights in other files,
                no signature by `key`, no card, or a graph that contradicts the card.
            ConfigError: CUDA or TensorRT was asked for and did not load.
        """
        self.path = Path(path)
        placement = device if isinstance(device, Placement) else Placement(device)
        content, contents, self.digest = onnxfile.load(self.path)
        if key is not None:
            key.verify(self.path, self.digest)
        self.card, self.size = card_of(contents, self.path), len(content)
        # TensorRT would load engines that lie there, which nobody has signed.
        engines = None if key is not None else self.path.resolve().parent
        choice = choose(placement, self.card.precision, engines)
        self.session, self.reason = _session(self.path, content, placement, choice), choice.reason
        check_provider(placement.device, self.provider)
        largest = max(1, min(max_batch, MAX_RUN // self.card.views))
        if buckets is None:
            powers = [2**power for power in range(MAX_RUN.bit_length()) if 2**power < largest]
            buckets = () if self.provider == "CPUExecutionProvider" else (*powers, largest)
        self.buckets = buckets
        self.max_run = min(largest, max(buckets, default=largest))
        self._check_graph()

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return str(self.session.get_providers()[0])

    @property
    def label(self) -> str:
        """The provider in words: CPU, CUDA or TensorRT."""
        names = {provider: LABELS[device] for device, provider in PROVIDERS.items()}
        return names.get(self.provider, "CPU")

    @property
    def has_heatmap(self) -> bool:
        """Whether the file was exported with a heatmap."""
        return self.card.explain is not None

    def predict(self, images: ImageInput) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) float32.

        Args:
            images: an array (N, H, W, C) uint8 at the model's native size, or one picture or a list of them: paths or
                PIL images of any size and mode, which are converted and resized as the service does.

        Raises:
            ValueError: an array of another dtype or shape.
            UnreadableImage, UnsupportedImage, ImageTooLarge: a picture that cannot be decoded.
            ModelFileError: the model gives numbers that are not finite.
        """
        (probabilities,) = self._run(self._pixels(images), [OUTPUT])
        return probabilities.reshape(-1, len(self.card.classes))

    def classify(self, images: ImageInput) -> list[str]:
        """Return the name of each image's most probable class.

        Args:
            images: as for `predict`.

        Raises:
            As `predict`.
        """
        return [self.card.classes[index] for index in self.predict(images).argmax(axis=1)]

    def explain(self, images: ImageInput) -> NDArray[np.float32]:
        """Return a heatmap (N, H, W) float32 in [0, 1] an image: where the evidence for its top class lies.

        Args:
            images: as for `predict`.

        Raises:
            ConfigError: the file was exported without --explain.
            As `predict`.
        """
        return self.predict_and_explain(images)[1]

    def predict_and_explain(self, images: ImageInput) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return probabilities (N, classes) and heatmaps (N, H, W) from one run.

        Args:
            images: as for `predict`.

        Raises:
            As `explain`.
        """
        if not self.has_heatmap:
            raise ConfigError(f"{self.path}: has no heatmap; export it with --explain")
        probabilities, heatmaps = self._run(self._pixels(images), [OUTPUT, HEATMAP])
        height, width, _ = self.card.shape
        return probabilities.reshape(-1, len(self.card.classes)), heatmaps.reshape(-1, height, width)

    def warm_up(self) -> None:
        """Run once in each size, so that no client waits for the first run's allocations and plans.

        Raises:
            ModelFileError: as `check_references`.
        """
        # The largest first: TensorRT then plans for the whole range with the next, and not again for each.
        for size in sorted(self.buckets or (1,), key=lambda size: (size != self.max_run, size)):
            images = np.zeros((size, *self.card.shape), np.uint8)
            self.predict(images)
            if self.has_heatmap:
                self.predict_and_explain(images)
        self.check_references()

    def check_references(self) -> float | None:
        """Run the card's reference images and return the largest difference of a probability; None without any.

        Raises:
            ModelFileError: the difference is larger than sums in another order explain, so this machine computes
                something else than what was verified at export.
        """
        references = self.card.references
        if references is None:
            return None
        expected = np.asarray(references.probabilities, np.float32)
        difference = float(np.abs(self.predict(references.pixels(self.card.shape)) - expected).max())
        if not difference <= REFERENCE_TOLERANCE[self.card.precision]:
            raise ModelFileError(
                f"{self.path}: its reference images give probabilities that differ by {difference:.2g} from those at "
                f"export ({self.provider}); use --device cpu, or export the model again"
            )
        return difference

    def _pixels(self, images: ImageInput) -> NDArray[np.uint8]:
        """Return images (N, H, W, C) uint8 at the native size."""
        if isinstance(images, np.ndarray):
            return images
        pictures = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        if any(isinstance(one, np.ndarray) for one in pictures):
            raise ValueError("a list holds paths or PIL images; put arrays into one of shape (N, H, W, C), np.stack(…)")
        decoded = [convert_image(one) if isinstance(one, Image.Image) else read_image(Path(one)) for one in pictures]
        if not decoded:
            return np.empty((0, *self.card.shape), np.uint8)
        return np.stack([fit(image, self.card.shape) for image in decoded])

    def _run(self, images: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[np.float32]]:
        """Return the outputs of all images, each joined along its first axis."""
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            sides = ", ".join(map(str, self.card.shape))
            raise ValueError(f"images are {images.dtype} {images.shape}; the model takes uint8 (N, {sides})")
        if not len(images):
            return [np.empty(0, np.float32) for _ in outputs]
        starts = range(0, len(images), self.max_run)
        parts = [self._run_once(images[start : start + self.max_run], outputs) for start in starts]
        joined = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        # argmax would name a class all the same, and JSON has no word for the probability.
        if not all(np.isfinite(output).all() for output in joined):
            raise ModelFileError(f"{self.path}: gives numbers that are not finite; export it again")
        return joined

    def _run_once(self, images: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[np.float32]]:
        """Return the outputs of one run, padded with black images to the next bucket."""
        size = next((bucket for bucket in self.buckets if bucket >= len(images)), len(images))
        padded = images
        if size > len(images):
            padded = np.zeros((size, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
        try:
            results = self.session.run(outputs, {INPUT: padded})
        except Exception as error:  # onnxruntime raises a type of its own for each of its status codes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelFileError(f"{self.path}: onnxruntime cannot run it ({reason}); export it again") from error
        return [output[: len(images)] for output in results]

    def _check_graph(self) -> None:
        height, width, channels = self.card.shape
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        expected = [(INPUT, "tensor(uint8)", [height, width, channels])]
        if [(item.name, item.type, item.shape[1:]) for item in inputs] != expected:
            raise ModelFileError(f"{self.path}: its input is not the card's; export it again")
        if not isinstance(inputs[0].shape[0], str):
            raise ModelFileError(f"{self.path}: its number of images is fixed; export it again")
        shapes = {item.name: item.shape for item in outputs if item.type == "tensor(float)"}
        if shapes.get(OUTPUT, [None])[1:] != [len(self.card.classes)]:
            raise ModelFileError(f"{self.path}: its output is not the card's; export it again")
        if self.has_heatmap and shapes.get(HEATMAP, [None])[1:] != [1, height, width]:
            raise ModelFileError(f"{self.path}: its heatmap is not the card's; export it again")


def _session(path: Path, content: bytes, placement: Placement, choice: Choice) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = placement.usable_threads()
    # Threads that spin for more work take a core from the server: 1.7 x the CPU seconds for the same images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if choice.providers[0] != "CPUExecutionProvider":  # for `xserve --check`, which counts the nodes left to the CPU
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3  # errors only: what is wrong is raised below, not logged
    try:
        # Without the fallback, with which a run that fails on a GPU is repeated on the CPU, from then on.
        session = onnxruntime.InferenceSession(content, options, providers=choice.providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises a type of its own for each of its status codes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(f"{path}: onnxruntime cannot load it ({reason}); export it again") from error
    session._model_bytes = None  # it would keep the file's bytes beside the loaded weights
    return session
