"""The card: what an exported file says of itself, as JSON in the ONNX `metadata_props["card"]`.

Made by `export`, read by everything that serves or scores. Needs neither torch nor onnx. A reader ignores keys that it
does not know and reads the format before its own.
"""

import base64
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from serving.model import onnxfile
from xtrain.errors import ModelFileError
from xtrain.metrics import Metrics

FORMAT = 3
KEY = "card"
INPUT, OUTPUT, HEATMAP = "images", "probabilities", "heatmap"
PRECISIONS = ("fp32", "fp16")
VIEWS = {None: 1, "dihedral": 8}
MAX_BYTES = 16 * 1024 * 1024
MAX_REFERENCES = 64
INTENDED_USE = (
    "Research and teaching in image classification. Not a medical device, not validated for diagnosis; "
    "do not use it for decisions about patients."
)

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(max_length=10_000)]
Side = Annotated[int, Field(ge=1, le=100_000)]
Share = Annotated[float, Field(ge=0, le=1)]
_STRICT = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of the ensemble.

    `digest` is the SHA-256 of its weights, `epoch` the one they are of, `weight` its share of the mean; `image_size`
    and `crop` are in pixels, `mean` and `std` per channel in units of [0, 1].
    """

    architecture: Name
    switches: dict[str, bool]
    seed: int
    digest: Name
    epoch: int
    weight: Share
    image_size: Side
    crop: Side | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data the members were trained on, and how its rows were divided; `rows` counts each split."""

    name: Name
    md5: Name
    licence: Text
    source: Text
    protocol: Literal["official", "pooled"]
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_digest: Name
    rows: dict[str, int]


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class InputTensor:
    """The input of the graph: `shape` is ("N", H, W, C), `dtype` uint8, `colour` RGB or grey."""

    name: Name
    shape: tuple[str, Side, Side, Literal[1, 3]]
    dtype: Literal["uint8"]
    colour: Text


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of the exported file itself on one split under one protocol."""

    protocol: Literal["official", "pooled"]
    split: Name
    metrics: Metrics


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted temperature, the rows it was fitted on, and what it changed on them.

    A temperature above 1 means that the network was overconfident. The expected calibration error is over 15 bins.
    """

    temperature: Annotated[float, Field(gt=0)]
    split: Name
    rows: int
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float
    method: Text = "temperature scaling (Guo et al. 2017)"


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """The second output: `shape` is ("N", 1, H, W), its values lie in `range`, `of` says what they explain."""

    name: Name
    shape: tuple[str, Literal[1], Side, Side]
    range: tuple[float, float]
    of: Text
    method: Text


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far onnxruntime was from torch at export, and the accuracy of each on the validation rows.

    `top_class_agreement` counts ties too.
    """

    images: int
    max_difference: float
    top_class_agreement: Share
    accuracy_torch: Share
    accuracy_onnxruntime: Share
    provider: Text


@with_config(_STRICT)
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


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Card:
    """What a server or a reader needs to know of a model.

    Attributes:
        name: short name of the model.
        version: the user's version of it.
        members: the networks inside.
        data: what they were trained on.
        classes: names by class index.
        input: the graph's input.
        metrics: of the exported file itself.
        weighting: where the members' weights come from: `equal`, `given`, or `greedy` selection on validation rows.
        calibration: the temperature; None if none was fitted.
        tta: `dihedral` if the eight views are averaged inside, else None.
        explain: the second output; None without one.
        precision: of the networks inside.
        parity: how far onnxruntime is from torch.
        packages: versions that made the file.
        git_commit: of the code that made it, or None.
        references: images for a server's self-check; None where they were left out.
        intended_use: what it is for, and what not.
        format: version of this structure.
    """

    name: Name
    version: Name
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1000)]
    data: TrainingData
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100_000)]
    input: InputTensor
    metrics: tuple[Evaluation, ...]
    weighting: Literal["equal", "given", "greedy"]
    calibration: Calibration | None = None
    tta: Literal["dihedral"] | None = None
    explain: Heatmap | None = None
    precision: Literal["fp32", "fp16"]
    parity: Parity
    packages: dict[str, str]
    git_commit: str | None = None
    references: References | None = None
    intended_use: Text = INTENDED_USE
    format: Literal[3] = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Native (H, W, C) of the images."""
        _, height, width, channels = self.input.shape
        return height, width, channels

    @property
    def views(self) -> int:
        """How many images the networks see for each one sent."""
        return VIEWS[self.tta]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return values

    def to_json(self) -> str:
        """Return JSON text with sorted keys, so that equal cards are equal bytes."""
        import json

        return json.dumps(self.as_json(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "card") -> "Card":
        """Read and validate a card of this format or the one before.

        Raises:
            ModelFileError: too long, not JSON, another format, or a part that is missing or of the wrong kind.
        """
        if len(text) > MAX_BYTES:
            raise ModelFileError(f"{where}: the card is longer than {MAX_BYTES} characters; export the model again")
        try:
            values = pydantic_core.from_json(text)
        except (ValueError, TypeError) as error:
            raise ModelFileError(f"{where}: the card is not JSON ({error}); export the model again") from error
        version = values.get("format") if isinstance(values, dict) else None
        if version not in (FORMAT - 1, FORMAT) or isinstance(version, bool):
            raise ModelFileError(
                f"{where}: the card has format {version!r}, this version reads {FORMAT - 1} and {FORMAT}; "
                "export the model again"
            )
        try:
            if version == FORMAT - 1:
                text = pydantic_core.to_json(_from_format_2(values)).decode()
            card: Card = _adapter().validate_json(text)
            if card.references:
                card.references.pixels(card.shape)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "card"
            raise ModelFileError(f"{where}: the card's {place}: {first['msg']}; export the model again") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelFileError(f"{where}: the card is damaged ({error}); export the model again") from error
        return card


@cache
def _adapter() -> TypeAdapter[Card]:
    return TypeAdapter(Card)


def _from_format_2(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the names and nesting of format 3."""
    members = [{**member, "switches": member["options"]} for member in values["members"]]
    metrics = [{"protocol": each["protocol"], "split": each["split"], "metrics": each} for each in values["metrics"]]
    return {**values, "members": members, "metrics": metrics, "format": FORMAT}


def read_card(path: Path) -> Card:
    """Return the card of a model file, without loading the model.

    Raises:
        ModelFileError: not a self-contained ONNX file with a valid card.
    """
    contents = onnxfile.read(path)
    if contents.external:
        raise ModelFileError(
            f"{path}: keeps weights in other files (external data), which are not read; use one self-contained file"
        )
    if KEY not in contents.properties:
        raise ModelFileError(f"{path}: has no card; it was not written by xexport")
    return Card.from_json(contents.properties[KEY], str(path))
