"""What an `.onnx` file holds, read from its bytes without loading the model: properties, external data, digest.

An ONNX file is one protocol-buffers message. The few fields needed here are found by their numbers in onnx.proto3;
everything else, the weights above all, is stepped over. So the card of a file of any size is read at once, and a
file that points at other files is refused before a runtime follows it there.
"""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

from serving.model.protobuf import Bytes, extent, fields
from xtrain.errors import ModelFileError

# Field numbers of onnx.proto3.
MODEL_GRAPH, MODEL_PROPERTIES, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 14, 20, 25
TRAINING_GRAPHS = (1, 2)
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
FUNCTION_NODE, FUNCTION_ATTRIBUTE, NODE_ATTRIBUTE = 7, 11, 5
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
SPARSE_TENSORS = (1, 2)
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14


@dataclass(frozen=True)
class Contents:
    """`properties` are the model's `metadata_props`; `external` whether any tensor lies in another file."""

    properties: dict[str, str]
    external: bool


def read(path: Path) -> Contents:
    """Return the properties of the file, and whether it refers to others.

    Raises:
        ModelFileError: missing, unreadable, or not an ONNX file.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file; name an .onnx that xexport wrote")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data)
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelFileError(f"{path}: not an ONNX file ({error}); export the model again") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def load(path: Path) -> tuple[bytes, Contents, str]:
    """Return the bytes of the file, what they hold, and their SHA-256, all of one reading.

    A file that is replaced while it is loaded cannot be verified as one and run as another.

    Raises:
        ModelFileError: missing, unreadable, not an ONNX file, or other bytes than the digest beside it says.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file; name an .onnx that xexport wrote")
        data = path.read_bytes()
        contents = _model(data)
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelFileError(f"{path}: not an ONNX file ({error}); export the model again") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    digest = hashlib.sha256(data).hexdigest()
    _compare(path, digest)
    return data, contents, digest


def sidecar(path: Path) -> Path:
    """Return the path of a model file's digest: `M.onnx.sha256`, in the format of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path) -> str:
    """Return the SHA-256 of the file, compared with the one beside it where there is one.

    Raises:
        ModelFileError: they differ.
    """
    try:
        digest = sha256(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    _compare(path, digest)
    return digest


def _compare(path: Path, digest: str) -> None:
    """Compare a file's SHA-256 with the one beside it, where there is one.

    Raises:
        ModelFileError: they differ.
    """
    beside = sidecar(path)
    try:
        words = beside.read_text(encoding="utf-8").split() if beside.is_file() else [digest]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: its digest cannot be read ({error})") from error
    if not words or words[0] != digest:
        raise ModelFileError(
            f"{path}: SHA-256 {digest} is not that of {beside.name}; the file was changed or cut short, copy it again"
        )


def _model(data: Bytes) -> Contents:
    properties, external, graphs = {}, False, 0
    for number, value in fields(data, slice(0, len(data))):
        if number == MODEL_PROPERTIES:
            pair = dict(fields(data, extent(value)))
            key, text = (data[extent(pair[part])].decode() if part in pair else "" for part in (1, 2))
            properties[key] = text
        elif number == MODEL_GRAPH:
            graphs += 1
            external |= _graph(data, extent(value))
        elif number == MODEL_TRAINING:
            parts = fields(data, extent(value))
            external |= any(_graph(data, extent(graph)) for part, graph in parts if part in TRAINING_GRAPHS)
        elif number == MODEL_FUNCTIONS:
            external |= _nodes(data, extent(value), FUNCTION_NODE)
            defaults = fields(data, extent(value))
            external |= any(_attribute(data, extent(one)) for part, one in defaults if part == FUNCTION_ATTRIBUTE)
    if graphs != 1:
        raise ValueError("it has no graph")
    return Contents(properties, external)


def _graph(data: Bytes, place: slice) -> bool:
    """Return whether any tensor of a graph, or of a graph inside it, is external."""
    for number, value in fields(data, place):
        if number == GRAPH_INITIALIZER and _tensor(data, extent(value)):
            return True
        if number == GRAPH_SPARSE and _sparse(data, extent(value)):
            return True
    return _nodes(data, place, GRAPH_NODE)


def _nodes(data: Bytes, place: slice, field: int) -> bool:
    return any(
        _attribute(data, extent(attribute))
        for number, node in fields(data, place)
        if number == field
        for kind, attribute in fields(data, extent(node))
        if kind == NODE_ATTRIBUTE
    )


def _attribute(data: Bytes, place: slice) -> bool:
    for part, value in fields(data, place):
        if part in ATTRIBUTE_TENSORS and _tensor(data, extent(value)):
            return True
        if part in ATTRIBUTE_GRAPHS and _graph(data, extent(value)):
            return True
        if part in ATTRIBUTE_SPARSE and _sparse(data, extent(value)):
            return True
    return False


def _sparse(data: Bytes, place: slice) -> bool:
    return any(number in SPARSE_TENSORS and _tensor(data, extent(value)) for number, value in fields(data, place))


def _tensor(data: Bytes, place: slice) -> bool:
    return any(
        number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0) for number, value in fields(data, place)
    )
