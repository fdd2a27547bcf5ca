"""Data sets by name or path: MedMNIST through `medmnist`, MNIST through torchvision, digits through scikit-learn.

Flows in: what the user typed after `--data`, a name, a file or a folder. Flows out: a `Dataset`. The libraries are
imported only when a name needs them, so that reading a path loads nothing heavy.
"""

import importlib.metadata
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xtrain.data.datasets import (
    Dataset,
    Split,
    array_digest,
    check_class_count,
    file_digest,
    read_npz,
    with_classes,
)
from xtrain.data.formats import DICOM, NIFTI
from xtrain.data.mapping import MappedRows, available_memory, uncompressed_bytes
from xtrain.errors import ConfigError, DataError, nearest
from xtrain.signals import deferred

# The 2-D, single-label sets of MedMNIST v2 (Yang et al. 2023).
MEDMNIST = (
    "pathmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
)
MEDMNIST_SIZES = ("", "_64", "_128", "_224")  # as MedMNIST+ names its files
# The others of MedMNIST v2, and why they are not taken.
OUT_OF_SCOPE = {
    "chestmnist": "is multi-label: an image has several of 14 findings",
    **dict.fromkeys(
        ("organmnist3d", "nodulemnist3d", "adrenalmnist3d", "fracturemnist3d", "vesselmnist3d", "synapsemnist3d"),
        "holds 3-D volumes",
    ),
}
HANDWRITTEN = ("mnist", "digits")
NAMES = (*MEDMNIST, *HANDWRITTEN)
DEFAULT = "pathmnist"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How data is found and read where it does not say so itself.

    Attributes:
        data_dir: where named sets are looked up and downloaded to; by default `$XTRAIN_DATA`, else `~/.cache/xtrain`.
        stream: whether images are read from disk as they are needed, instead of once into memory; None decides by the
            memory that is available.
        class_count: number of classes of a file that does not name them; None is up to the largest label.
        shape: (H, W, C) that pictures of a folder are brought to; a None is what they have in common.
        group_pattern: regular expression that names the group of a picture in a folder; see `folders.read_folder`.
        in_order: whether the images of an `.npz` stay in it, to be read from the first to the last.
    """

    data_dir: str | Path | None = None
    stream: bool | None = None
    class_count: int | None = None
    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    group_pattern: str | None = None
    in_order: bool = False

    @property
    def folder(self) -> Path:
        """Where named sets lie and large ones are unpacked."""
        return Path(self.data_dir or os.environ.get("XTRAIN_DATA") or Path.home() / ".cache" / "xtrain").expanduser()


def load(spec: str, options: LoadOptions | None = None, classes: Sequence[str] | None = None) -> Dataset:
    """Load a data set by name or path.

    Args:
        spec: a name (`pathmnist`, `pathmnist_224`, `mnist`, `digits`, …), the path of an `.npz`, or a folder of
            pictures in folders of classes.
        options: where and how.
        classes: names of a model's classes, which the data set's labels must fit.

    Raises:
        ConfigError: an unknown name, with the nearest ones, or an option that means nothing for this data.
        DataError: a file that is missing, corrupt, out of scope or cannot be downloaded; other classes than `classes`.
    """
    options = options or LoadOptions()
    dataset = _read(spec, options, classes)
    check_class_count(dataset, options.class_count)
    if options.stream and not any(isinstance(split.images, MappedRows) for split in dataset.splits.values()):
        raise ConfigError(f"--stream reads files from disk; {spec} is small and lies in memory, so leave it out")
    return dataset if classes is None else with_classes(dataset, classes)


def _read(spec: str, options: LoadOptions, classes: Sequence[str] | None) -> Dataset:
    """Return a data set as its file, folder or library gives it."""
    if not spec.strip():
        raise ConfigError("the data's name is empty; name a data set, an .npz or a folder of pictures")
    if is_path(spec) and Path(spec).expanduser().is_dir():
        return _read_folder(Path(spec).expanduser(), options, classes)
    for name, given in (("--native-size", any(options.shape[:2])), ("--group-pattern", options.group_pattern)):
        if given and classes is None:
            raise ConfigError(f"{name} is for a folder of pictures; {spec} has its images as they are, so leave it out")
    if spec == "mnist":
        return _mnist(options.folder)
    if spec == "digits":
        return _digits()
    if is_name(spec):
        return _medmnist(spec, options)
    if is_path(spec):
        _refuse_other_files(Path(spec))
        return _name_by_file(_read_npz(Path(spec).expanduser(), options))
    flag = spec.partition("_")[0]
    if flag in OUT_OF_SCOPE:
        raise ConfigError(f"{spec} {OUT_OF_SCOPE[flag]}, which is out of scope; choose one of: {', '.join(NAMES)}")
    raise ConfigError(f"no data set is called {spec!r}, and no such file or folder exists; {nearest(spec, NAMES)}")


def is_name(spec: str) -> bool:
    """Return whether `--data` is the name of a data set."""
    flag = spec.partition("_")[0]
    return spec in HANDWRITTEN or (flag in MEDMNIST and spec.removeprefix(flag) in MEDMNIST_SIZES)


def is_path(spec: str) -> bool:
    """Return whether `--data` names a file or folder; a data set's own name never does."""
    return (
        bool(spec.strip())
        and not is_name(spec)
        and (spec.endswith(".npz") or os.sep in spec or Path(spec).expanduser().exists())
    )


def is_handwritten(spec: str) -> bool:
    """Return whether `--data` names handwritten digits, also in a file such as Keras's `mnist.npz`."""
    return (Path(spec).stem if is_path(spec) else spec).lower().startswith(HANDWRITTEN)


def _refuse_other_files(path: Path) -> None:
    """Refuse medical formats that are out of scope by what they are."""
    name = path.name.lower()
    for suffix, text in ((".dcm", DICOM), (".nii", NIFTI), (".nii.gz", NIFTI)):
        if name.endswith(suffix):
            raise DataError(f"{path}: is {text}")


def listing() -> list[dict[str, Any]]:
    """Return name, number of images, shape, classes and source of every named data set, as plain JSON values."""
    info = _medmnist_info()
    rows = [
        {
            "name": name,
            "images": sum(info[name]["n_samples"].values()),
            "shape": f"28x28x{info[name]['n_channels']}",
            "classes": len(info[name]["label"]),
            "source": f"MedMNIST v2; also {', '.join(name + size for size in MEDMNIST_SIZES[1:])}",
        }
        for name in MEDMNIST
    ]
    rows.append({"name": "mnist", "images": 70_000, "shape": "28x28x1", "classes": 10, "source": "LeCun et al. 1998"})
    rows.append(
        {"name": "digits", "images": 1_797, "shape": "28x28x1", "classes": 10, "source": "scikit-learn, 8x8 scaled"}
    )
    return rows


def _require(module: str) -> Any:
    """Import a library of the `[train]` extra, or say how to get it."""
    try:
        with deferred():  # medmnist's `except:` would swallow Ctrl-C
            return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"this data set needs {module} ({error}); pip install 'xtrain[train]', or pass the path of an .npz"
        ) from error


@cache
def _medmnist_info() -> Mapping[str, Any]:
    """Return MedMNIST's table of its data sets without importing the package, which would load torch.

    Raises:
        DataError: medmnist is not installed.
    """
    package = importlib.util.find_spec("medmnist")
    if package is None or not package.submodule_search_locations:
        raise DataError("medmnist is not installed; pip install 'xtrain[train]', or pass the path of an .npz")
    path = Path(package.submodule_search_locations[0]) / "info.py"
    spec = importlib.util.spec_from_file_location("medmnist_info", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    info: Mapping[str, Any] = module.INFO
    return info


def _name_by_file(dataset: Dataset) -> Dataset:
    """Return the data set with what its file's name tells: class names and licence of a MedMNIST set, digits upright.

    Where medmnist is not installed, as on a server, the classes stay numbers.
    """
    if is_handwritten(f"{dataset.name}.npz"):
        return replace(dataset, upright=True)
    flag = next((name for name in MEDMNIST if dataset.name.startswith(name)), None)
    if flag is None or not dataset.numbered or importlib.util.find_spec("medmnist") is None:
        return dataset
    info = _medmnist_info()[flag]
    if len(info["label"]) < len(dataset.classes):
        return dataset
    return replace(dataset, classes=_class_names(info), licence=info["license"])


def _class_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(info["label"][str(index)] for index in range(len(info["label"])))


def _read_npz(path: Path, options: LoadOptions) -> Dataset:
    """Read a file into memory or, where it would take more than half of what is available, map it."""
    stream = options.stream
    if options.in_order:
        return read_npz(path, options.class_count, in_order=True)
    if stream is None and path.is_file():
        try:
            stream = uncompressed_bytes(path) > available_memory() / 2
        except (zipfile.BadZipFile, OSError):
            stream = False  # `read_npz` says what is wrong with the file
    return read_npz(path, options.class_count, options.folder if stream else None)


def _read_folder(folder: Path, options: LoadOptions, classes: Sequence[str] | None) -> Dataset:
    """Read a folder of pictures into memory or, where they would take more than half of what is available, map them."""
    from xtrain.data import folders  # loads Pillow, which a command's --help need not wait for

    stream = options.stream
    if stream is None:
        stream = folders.uncompressed_bytes(folder, options.shape) > available_memory() / 2
    cache_folder = options.folder if stream else None
    return folders.read_folder(folder, classes, options.shape, options.group_pattern, cache_folder)


def _medmnist(name: str, options: LoadOptions) -> Dataset:
    """Find `name.npz` in the data folder, its `medmnist` subfolder or MedMNIST's own cache; else download it."""
    folder = options.folder
    flag, _, size = name.partition("_")
    info = _medmnist_info()[flag]
    md5 = info[f"MD5_{size}" if size else "MD5"]
    places = [folder, folder / "medmnist", Path.home() / ".medmnist"]
    path = next((place / f"{name}.npz" for place in places if (place / f"{name}.npz").is_file()), None)
    if path is None:
        make = getattr(_require("medmnist"), info["python_class"])
        url = info[f"url_{size}" if size else "url"]
        path = _download(
            folder,
            f"{name}.npz",
            url,
            lambda root: make(split="train", download=True, root=root, size=int(size or 28), mmap_mode="r"),
        )
    actual = file_digest(path)
    if actual != md5:
        raise DataError(f"{path}: md5 {actual} is not MedMNIST's {md5}; delete the file to fetch it again")
    return replace(
        _read_npz(path, options),
        name=name,
        classes=_class_names(info),
        licence=info["license"],
        source=f"MedMNIST {importlib.metadata.version('medmnist')}",
    )


def _download(folder: Path, filename: str, url: str, fetch: Callable[[str], object]) -> Path:
    """Download with a library into a temporary folder and move the checked file into place.

    Raises:
        DataError: nothing came, or not what was published; nothing is left behind.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            fetch(temporary)
            os.replace(Path(temporary) / filename, folder / filename)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{filename} is not in {folder} and could not be downloaded; fetch {url} by other means, "
            f"put it there, or name its folder with --data-dir"
        ) from error
    return folder / filename


def _mnist(folder: Path) -> Dataset:
    mnist = _require("torchvision").datasets.MNIST
    try:
        parts = {"train": mnist(str(folder), train=True), "test": mnist(str(folder), train=False)}
    except (RuntimeError, OSError, ValueError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mnist(str(folder), download=True)
            parts = {"train": mnist(str(folder), train=True), "test": mnist(str(folder), train=False)}
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(
                f"MNIST is not whole in {folder / 'MNIST' / 'raw'} and could not be downloaded; put its four idx files "
                "there, or name the folder above MNIST with --data-dir"
            ) from error
    arrays = {
        name: (part.data.numpy()[..., None], part.targets.numpy().astype(np.int64)) for name, part in parts.items()
    }
    return Dataset(
        name="mnist",
        splits={name: Split(images, labels) for name, (images, labels) in arrays.items()},
        classes=tuple("0123456789"),
        md5=array_digest(*(array for pair in arrays.values() for array in pair)),
        upright=True,
        licence="public (LeCun et al. 1998)",
        source="torchvision",
    )


def _digits() -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 8x8 with 17 levels, scaled to 28x28 with 256."""
    from PIL import Image

    bunch = _require("sklearn.datasets").load_digits()
    levels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    resize = [np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR)) for image in levels]
    images, labels = np.stack(resize)[..., None], bunch.target.astype(np.int64)
    return Dataset(
        name="digits",
        splits={"train": Split(images, labels)},
        classes=tuple("0123456789"),
        md5=array_digest(images, labels),
        pool_only=True,
        upright=True,
        licence="CC BY 4.0 (Alpaydin & Kaynak 1998, UCI)",
        source="scikit-learn",
    )
