"""The card: what an exported file says of itself, as JSON in the ONNX `metadata_props["card"]`.

Born in `export`, read by everything that serves or scores. Needs neither torch nor onnx.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from training.errors import ModelFileError

FORMAT = 1
KEY = "card"
INPUT, OUTPUT = "images", "probabilities"
INTENDED_USE = (
    "Research and teaching in image classification. Not a medical device, not validated for diagnosis; "
    "do not use it for decisions about patients."
)


@dataclass(frozen=True)
class Card:
    """The facts a server or a reader needs.

    Attributes:
        name: short name of the model.
        version: the user's version of it.
        members: one entry a network: `architecture`, `seed`, `digest` (SHA-256 of its weights), `epoch`,
            `image_size`, `crop`, `weight` (its share of the mean), `mean`, `std`.
        data: the training data: `name`, `md5`, `licence`, `source`, `protocol`, `split_seed`, `val_fraction`,
            `split_digest`, `rows`.
        classes: names by class index.
        input: `name`, `shape` ("N", H, W, C), `dtype` uint8, `colour` RGB or grey.
        metrics: figures of the exported file itself, each with `protocol` and `split`.
        packages: versions that made the file.
        git_commit: of the code that made it, or None.
        intended_use: what it is for, and what not.
        format: version of this structure.
    """

    name: str
    version: str
    members: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    classes: tuple[str, ...]
    input: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    packages: Mapping[str, str]
    git_commit: str | None
    intended_use: str = INTENDED_USE
    format: int = FORMAT

    @property
    def shape(self) -> tuple[int, int, int]:
        """Native (H, W, C) of the images."""
        _, height, width, channels = self.input["shape"]
        return height, width, channels

    def to_json(self) -> str:
        """JSON with sorted keys, so that the same facts are the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "card") -> "Card":
        """Read and validate a card.

        Raises:
            ModelFileError: not JSON, another format, or a field missing or of the wrong kind.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ModelFileError(f"{where}: the card is not JSON ({error}); export the model again") from error
        fault = _fault(values)
        if fault:
            raise ModelFileError(f"{where}: the card {fault}; export the model again")
        return cls(**{**values, "classes": tuple(values["classes"])})


KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "version": str,
    "members": list,
    "data": dict,
    "classes": list,
    "input": dict,
    "metrics": list,
    "packages": dict,
    "git_commit": (str, type(None)),
    "intended_use": str,
    "format": int,
}


def _fault(values: Any) -> str | None:
    """Say what is wrong with a parsed card, None if nothing is."""
    if not isinstance(values, dict):
        return "is not an object"
    if values.get("format") != FORMAT:
        return f"has format {values.get('format')!r}, this version reads {FORMAT}"
    differing = {item.name for item in fields(Card)} ^ set(values)
    if differing:
        return f"lacks or does not know {', '.join(sorted(differing))}"
    for key, kind in KINDS.items():
        if not isinstance(values[key], kind):
            return f"has a {key} of type {type(values[key]).__name__}"
    if not values["classes"] or not all(isinstance(name, str) for name in values["classes"]):
        return "has no list of class names"
    shape = values["input"].get("shape")
    sides = shape[1:] if isinstance(shape, list) and len(shape) == 4 else [0]
    if not all(isinstance(side, int) and side > 0 for side in sides) or sides[-1] not in (1, 3):
        return f"has the input shape {shape!r}, not [N, H, W, 1 or 3]"
    if values["input"].get("dtype") != "uint8":
        return f"has the input dtype {values['input'].get('dtype')!r}, not uint8"
    if not values["members"]:
        return "names no members"
    return None
