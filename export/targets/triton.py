"""An exported file as a model of NVIDIA's Triton Inference Server.

REPOSITORY/NAME/config.pbtxt      tensors, batching and warm-up, as Triton's model_config.proto names them
REPOSITORY/NAME/labels.txt        the classes, for Triton's classification extension
REPOSITORY/NAME/1/model.onnx      the file, unchanged; its .sha256 and .sig beside it
REPOSITORY/NAME/warmup/images     the first reference image of the card, raw bytes
"""

import re
import shutil
from pathlib import Path

from serving.model import onnxfile, signature
from serving.model.card import HEATMAP, INPUT, OUTPUT, Card
from xtrain.errors import ConfigError
from xtrain.files import replacing_folder

MAX_BATCH = 64
DELAY = 2000  # microseconds that an idle server waits for more images
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def write(model: Path, card: Card, repository: Path, overwrite: bool = False) -> Path:
    """Write the folder of a model; return it.

    Args:
        model: the exported file.
        card: inside it.
        repository: folder of Triton's models.
        overwrite: whether the model's folder may be replaced.

    Raises:
        ConfigError: a model's name that is no name of a folder.
        OutputError: the folder cannot be written, or exists.
    """
    check_name(card.name)
    folder = repository / card.name
    with replacing_folder(folder, overwrite) as staged:
        (staged / "1").mkdir()
        target = staged / "1" / "model.onnx"
        shutil.copyfile(model, target)
        digest = onnxfile.sha256(target)
        # The layout is also xserve's, which looks for both beside the file.
        onnxfile.sidecar(target).write_text(f"{digest}  {target.name}\n", encoding="utf-8")
        if signature.sidecar(model).is_file():
            shutil.copyfile(signature.sidecar(model), signature.sidecar(target))
        (staged / "labels.txt").write_text("".join(f"{name}\n" for name in card.classes), encoding="utf-8")
        if card.references is not None:
            (staged / "warmup").mkdir()
            (staged / "warmup" / INPUT).write_bytes(card.references.pixels(card.shape)[0].tobytes())
        (staged / "config.pbtxt").write_text(config(card, digest), encoding="utf-8")
    return folder


def check_name(name: str) -> None:
    """Refuse a name that Triton would take for a path, or a shell for an option.

    Raises:
        ConfigError: it is one.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"--triton: {name!r} is no name for a folder of Triton's; choose another --name")


def config(card: Card, digest: str) -> str:
    """Return `config.pbtxt`.

    Args:
        card: of the model.
        digest: SHA-256 of its file, written down as a parameter.
    """
    dims = ", ".join(map(str, card.shape))
    lines = [
        f"# {' '.join(card.intended_use.split())}",
        f"name: {quoted(card.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH}",
        f"input [ {{ name: {quoted(INPUT)} data_type: TYPE_UINT8 dims: [ {dims} ] }} ]",
        f"output [ {{ name: {quoted(OUTPUT)} data_type: TYPE_FP32 dims: [ {len(card.classes)} ]"
        ' label_filename: "labels.txt" } ]',
    ]
    if card.explain is not None:
        shape = ", ".join(map(str, card.explain.shape[1:]))
        lines += [
            "# Once listed, the heatmap is computed for every request:",
            f"# output [ {{ name: {quoted(HEATMAP)} data_type: TYPE_FP32 dims: [ {shape} ] }} ]",
        ]
    source = "zero_data: true" if card.references is None else f"input_data_file: {quoted(INPUT)}"
    tensor = f"{{ key: {quoted(INPUT)} value {{ data_type: TYPE_UINT8 dims: [ {dims} ] {source} }} }}"
    lines += [
        f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}",
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
        "# One image, which Triton repeats; a model that cannot run it does not load.",
        *(
            f"model_warmup [ {{ name: {quoted(name)} batch_size: {size} inputs {tensor} }} ]"
            for name, size in (("one", 1), ("full", MAX_BATCH))
        ),
        f'parameters {{ key: "xtrain_version" value {{ string_value: {quoted(card.version)} }} }}',
        f'parameters {{ key: "xtrain_sha256" value {{ string_value: {quoted(digest)} }} }}',
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Return a string literal of protocol buffers' text format: bytes outside of ASCII as octal escapes."""
    escaped = "".join(
        f"\\{byte:03o}" if byte < 32 or byte > 126 or byte in b'"\\' else chr(byte) for byte in text.encode()
    )
    return f'"{escaped}"'
