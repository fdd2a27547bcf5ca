"""What is made of an exported file besides itself: its signature, and folders for other programs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import combinations
from pathlib import Path

from export.options import ExportOptions
from export.plan import Plan
from export.publish import write_signature
from export.targets import triton, web, wsinfer
from export.verify import GATES
from export.weigh import Weighed
from serving.model import onnxfile, signature
from serving.model.card import Card, read_card
from serving.model.signature import PrivateKey
from xtrain.errors import ConfigError
from xtrain.files import refuse_existing, refuse_existing_folder, replacing_folder
from xtrain.options import check, flag

FOR_A_FILE = ("sign", "triton", "web", "onnxruntime_web", "overwrite")  # options that need no run


def package_file(model: Path, options: ExportOptions) -> list[Path]:
    """Sign a file that was exported before, or write it for other programs; return what was written.

    Args:
        model: an `.onnx` that `xexport` wrote.
        options: of which those of `FOR_A_FILE` count.

    Raises:
        ConfigError: no such option, one that needs the runs, or places of which one would replace another.
        ModelFileError: the file is not one of `xexport`, or was changed.
        OutputError: something cannot be written.
    """
    check(options)
    changed = [item.name for item in fields(options) if getattr(options, item.name) != item.default]
    if unfit := [name for name in changed if name not in FOR_A_FILE]:
        raise ConfigError(f"{flag(ExportOptions, unfit[0])} needs the runs; an exported file is not changed any more")
    if not {"sign", "triton", "web"} & set(changed):
        raise ConfigError(f"{model}: is exported already; add --triton FOLDER, --web FOLDER or --sign KEY")
    key = None if options.sign is None else PrivateKey.read(options.sign)
    card, digest = read_card(model), onnxfile.verify(model)
    _check_folders(model, card.name, options)
    written = []
    if key is not None:
        refuse_existing(signature.sidecar(model), options.overwrite)
        write_signature(model, digest, key)
        written.append(signature.sidecar(model))
    return written + write_folders(model, card, options)


def check_targets(plan: Plan) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises:
        ConfigError: images or a name that a program cannot use, or places of which one would replace another.
        OutputError: a folder that holds something else.
    """
    if plan.options.wsinfer is not None:
        wsinfer.check(plan.shape, plan.checkpoints[0].spec.classes, plan.options.spacing_um)
    _check_folders(plan.output, plan.name, plan.options)


@contextmanager
def slide_model(plan: Plan, weighed: Weighed) -> Iterator[None]:
    """Write the folder for WSInfer, if it is asked for; it takes its name once the block has ended well.

    Raises:
        ExportError: TorchScript answers otherwise than torch.
        OutputError: the folder cannot be written.
    """
    folder, spacing = plan.options.wsinfer, plan.options.spacing_um
    if folder is None or spacing is None:
        yield
        return
    members = [item.spec.architecture for item in weighed.checkpoints]
    classes = weighed.checkpoints[0].spec.classes
    with replacing_folder(folder, plan.options.overwrite) as staged:
        described = wsinfer.configuration(plan.name, classes, members, plan.shape[0], spacing)
        wsinfer.write(weighed.ensemble, plan.shape, described, staged)
        wsinfer.verify(staged, plan.images, weighed.expected, GATES["fp32"])
        yield
        shutil.copyfile(plan.model_card, staged / "README.md")


def write_folders(model: Path, card: Card, options: ExportOptions) -> list[Path]:
    """Write the folders that need the file alone; return them.

    Raises:
        OutputError: one cannot be written.
    """
    written = []
    if options.triton is not None:
        written.append(triton.write(model, card, options.triton, options.overwrite))
    if options.web is not None:
        written.append(web.write(model, card, options.web, options.onnxruntime_web, options.overwrite))
    return written


def _check_folders(model: Path, name: str, options: ExportOptions) -> None:
    """Refuse folders that cannot be written, before any is.

    Raises:
        ConfigError: a name or a runtime that cannot be used, or places of which one would replace another.
        OutputError: a folder that holds something else.
    """
    if options.onnxruntime_web is not None and options.web is None:
        raise ConfigError("--onnxruntime-web is for --web; add --web FOLDER, or leave --onnxruntime-web out")
    folders = {"--wsinfer": options.wsinfer, "--web": options.web}
    if options.triton is not None:
        triton.check_name(name)
        folders["--triton"] = options.triton / name  # other models of the repository stay
    targets = {option: folder for option, folder in folders.items() if folder is not None}
    _refuse_nested(model, targets)
    if options.web is not None:
        for file in web.FILES:
            web.read_runtime(file, options.onnxruntime_web)
    for folder in targets.values():
        refuse_existing_folder(folder, options.overwrite)


def _refuse_nested(model: Path, folders: dict[str, Path]) -> None:
    """Raise ConfigError if the model, a file beside it or one of the folders is, or lies in, another of them."""
    files = (model, model.with_suffix(".md"), onnxfile.sidecar(model), signature.sidecar(model))
    places = [(str(file), file.resolve()) for file in files]
    places += [(f"{option} {folder}", folder.resolve()) for option, folder in folders.items()]
    for (first, first_path), (second, second_path) in combinations(places, 2):
        if first_path == second_path:
            raise ConfigError(f"{first} and {second} are the same place; name two")
        if first_path.is_relative_to(second_path):
            raise ConfigError(f"{first} lies inside {second}, which is written whole; name a place outside of it")
        if second_path.is_relative_to(first_path):
            raise ConfigError(f"{second} lies inside {first}, which is written whole; name a place outside of it")
