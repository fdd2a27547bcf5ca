"""The card: what an exported file says of itself, as JSON in the ONNX `metadata_props["card"]`.

Made by `export`, read by everything that serves or scores. Needs neither torch nor onnx. A reader ignores keys that it
does not know and reads the format before its own.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import Field, TypeAdapter, ValidationError, with_config

from serving.model import onnxfile
from serving.model.card_parts import (
    STRICT,
    Calibration,
    Evaluation,
    Heatmap,
    InputTensor,
    Member,
    Name,
    Parity,
    References,
    Text,
    TrainingData,
)
from serving.model.training_rows import TrainingRows
from xtrain.errors import ModelFileError

FORMAT = 3
MAX_CARD = 8 * 1024 * 1024  # characters; reference images and digests of 100,000 training rows are a tenth
KEY = "card"
INPUT, OUTPUT, HEATMAP = "images", "probabilities", "heatmap"
VIEWS = {None: 1, "dihedral": 8}
MAX_BYTES = 16 * 1024 * 1024
INTENDED_USE = (
    "Research and teaching in image classification. Not a medical device, not validated for diagnosis; "
    "do not use it for decisions about patients."
)


@with_config(STRICT)
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
        calibration: the temperature; None if there is none.
        calibration_note: why there is none, where one was asked for.
        tta: `dihedral` if the eight views are averaged inside, else None.
        explain: the second output; None without one.
        precision: of the networks inside.
        parity: how far onnxruntime is from torch.
        packages: versions that made the file.
        git_commit: of the code that made it, or None.
        spacing_um: micrometres a pixel of the images at the native size; None where they are not known.
        references: images for a server's self-check; None where they were left out.
        training_rows: digests of the images that the members were trained on; None where they are not known.
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
    calibration_note: Text | None = None
    tta: Literal["dihedral"] | None = None
    explain: Heatmap | None = None
    precision: Literal["fp32", "fp16"]
    parity: Parity
    packages: dict[str, str]
    git_commit: str | None = None
    spacing_um: Annotated[float, Field(gt=0)] | None = None
    references: References | None = None
    training_rows: TrainingRows | None = None
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

    def summary(self) -> dict[str, Any]:
        """Return `as_json` for a reader: without the reference images' pixels and the training rows' digests."""
        values = self.as_json()
        for part, content in (("references", "images"), ("training_rows", "content")):
            if values[part]:
                values[part].pop(content)
        return values

    def to_json(self) -> str:
        """Return JSON text with sorted keys, so that equal cards are equal bytes."""
        return json.dumps(self.as_json(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "card") -> "Card":
        """Read and validate a card of this format or the one before.

        Raises:
            ModelFileError: too long, not JSON, another format, or a part that is missing or of the wrong kind.
        """
        if len(text) > MAX_BYTES:
            raise ModelFileError(f"{where}: the card is longer than {MAX_BYTES} characters; export the model again")
        if len(text) > MAX_CARD:
            raise ModelFileError(f"{where}: the card is longer than {MAX_CARD} characters; export the model again")
        try:
            values = pydantic_core.from_json(text)
        except (ValueError, TypeError, RecursionError) as error:
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
                card.references.check(card.shape, len(card.classes))
            if card.training_rows:
                card.training_rows.check()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "card"
            raise ModelFileError(f"{where}: the card's {place}: {first['msg']}; export the model again") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
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
    return card_of(onnxfile.read(path), path)


def card_of(contents: onnxfile.Contents, path: Path) -> Card:
    """Return the card of what was read from a file.

    Raises:
        ModelFileError: as `read_card`.
    """
    if contents.external:
        raise ModelFileError(
            f"{path}: keeps weights in other files (external data), which are not read; use one self-contained file"
        )
    if KEY not in contents.properties:
        raise ModelFileError(f"{path}: has no card; it was not written by xexport")
    return Card.from_json(contents.properties[KEY], str(path))
