"""The card: what an exported file says of itself, as JSON in the ONNX `metadata_props["card"]`.

Born in `export`, read by everything that serves or scores. Needs neither torch nor onnx.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from serving.model import onnxfile
from xtrain.errors import ModelFileError

FORMAT = 2
KEY = "card"
INPUT, OUTPUT, HEATMAP = "images", "probabilities", "heatmap"
PRECISIONS, VIEWS = ("fp32", "fp16"), {None: 1, "dihedral": 8}
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
        weighting: where the members' weights come from: `equal`, `given`, or `greedy` selection on validation rows.
        calibration: the temperature, on which rows it was fitted and what it changed; None if none was fitted.
        tta: `dihedral` if the eight views are averaged inside, else None.
        explain: None, or the second output: `name`, `shape`, `method` of each member, `range`.
        precision: of the networks inside, `fp32` or `fp16`.
        parity: how far onnxruntime was from torch before the file took its name: `images`, `max_difference`,
            `top_class_agreement`, both accuracies on the validation rows, `provider`.
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
    weighting: str
    calibration: Mapping[str, Any] | None
    tta: str | None
    explain: Mapping[str, Any] | None
    precision: str
    parity: Mapping[str, Any]
    packages: Mapping[str, str]
    git_commit: str | None
    intended_use: str = INTENDED_USE
    format: int = FORMAT

    @property
    def shape(self) -> tuple[int, int, int]:
        """Native (H, W, C) of the images."""
        _, height, width, channels = self.input["shape"]
        return height, width, channels

    @property
    def views(self) -> int:
        """How many images the networks see for each one sent."""
        return VIEWS[self.tta]

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


def read_card(path: Path) -> Card:
    """The card of a model file, which is not loaded for it.

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


KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "version": str,
    "members": list,
    "data": dict,
    "classes": list,
    "input": dict,
    "metrics": list,
    "weighting": str,
    "calibration": (dict, type(None)),
    "tta": (str, type(None)),
    "explain": (dict, type(None)),
    "precision": str,
    "parity": dict,
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
    if values["tta"] not in VIEWS or values["precision"] not in PRECISIONS:
        return f"has the tta {values['tta']!r} and the precision {values['precision']!r}, not ones this version knows"
    return None
