"""The typed parts of the card: members, training data, tensors, metrics, calibration, parity, reference images."""

import base64
import zlib
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from xtrain.metrics import Metrics

MAX_REFERENCES = 64
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(max_length=10_000)]
Side = Annotated[int, Field(ge=1, le=100_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]  # what JSON readers can hold
STRICT = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of the ensemble.

    `digest` is the SHA-256 of its weights, `epoch` the one they are of, `weight` its share of the mean; `image_size`
    and `crop` are in pixels, `mean` and `std` per channel in units of [0, 1].
    """

    architecture: Name
    switches: dict[str, bool]
    seed: Count
    digest: Name
    epoch: Count
    weight: Share
    image_size: Side
    crop: Side | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data the members were trained on, and how its rows were divided.

    `rows` counts each split; `group_pattern` found in a picture's path what was kept in one split.
    """

    name: Name
    md5: Name
    licence: Text
    source: Text
    protocol: Literal["official", "pooled"]
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_digest: Name
    rows: dict[str, Count]
    group_pattern: Text | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class InputTensor:
    """The input of the graph: `shape` is ("N", H, W, C), `dtype` uint8, `colour` RGB or grey."""

    name: Name
    shape: tuple[str, Side, Side, Literal[1, 3]]
    dtype: Literal["uint8"]
    colour: Text


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of the exported file itself on one split under one protocol."""

    protocol: Literal["official", "pooled"]
    split: Name
    metrics: Metrics


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted temperature, the rows it was fitted on, and what it changed on them.

    A temperature above 1 means that the network was overconfident. The expected calibration error is over 15 bins.
    """

    temperature: Annotated[float, Field(gt=0)]
    split: Name
    rows: Count
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float
    method: Text = "temperature scaling (Guo et al. 2017)"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """The second output: `shape` is ("N", 1, H, W), its values lie in `range`, `of` says what they explain."""

    name: Name
    shape: tuple[str, Literal[1], Side, Side]
    range: tuple[float, float]
    of: Text
    method: Text


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far onnxruntime was from torch at export, and the accuracy of each on the validation rows.

    `top_class_agreement` counts ties too.
    """

    images: Count
    max_difference: float
    top_class_agreement: Share
    accuracy_torch: Share
    accuracy_onnxruntime: Share
    provider: Text


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class References:
    """A few images with the probabilities that the file gave for them at export, so that a server can check itself.

    Attributes:
        count: number of images.
        images: base64 of the zlib-compressed bytes of the array (count, H, W, C) uint8 in C order.
        probabilities: (count, classes).
        source: where the images are from.
    """

    count: Annotated[int, Field(ge=1, le=MAX_REFERENCES)]
    images: str
    probabilities: tuple[tuple[Share, ...], ...]
    source: Text

    @classmethod
    def make(cls, images: NDArray[np.uint8], probabilities: NDArray[np.float32], source: str) -> "References":
        """Pack images (n, H, W, C) uint8 and their probabilities (n, classes)."""
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(images).tobytes(), 9)).decode()
        rounded = tuple(tuple(float(f"{value:.7g}") for value in row) for row in probabilities)
        return cls(count=len(images), images=packed, probabilities=rounded, source=source)

    def check(self, shape: tuple[int, int, int], classes: int) -> None:
        """Raise ValueError unless these are images of that (H, W, C) with a probability for every class."""
        if [len(row) for row in self.probabilities] != [classes] * self.count:
            raise ValueError("the reference images have no probability for every class")
        self.pixels(shape)

    def pixels(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Return the images (count, H, W, C) uint8.

        Raises:
            ValueError: they are not that many bytes.
        """
        size = self.count * shape[0] * shape[1] * shape[2]
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(base64.b64decode(self.images, validate=True), size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(content) != size:
            raise ValueError(f"they are not {size} bytes")
        return np.frombuffer(content, np.uint8).reshape(self.count, *shape)
