"""Data sets by name: MedMNIST through `medmnist`, MNIST through torchvision, digits through scikit-learn.

Flows in: what the user typed after `--data`, a name or a path. Flows out: a `Dataset`. The libraries are
imported only when a name needs them, so that reading a path loads nothing heavy.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xtrain.data.datasets import Dataset, Split, array_digest, file_digest, read_npz, with_classes
from xtrain.data.mapping import available_memory, uncompressed_bytes
from xtrain.errors import ConfigError, DataError, nearest

# The 2-D, single-label sets of MedMNIST v2 (Yang et al. 2023); ChestMNIST is multi-label.
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
HANDWRITTEN = ("mnist", "digits")
NAMES = (*MEDMNIST, *HANDWRITTEN)
DEFAULT = "pathmnist"


def load(
    spec: str,
    data_dir: str | Path | None = None,
    classes: Sequence[str] | None = None,
    stream: bool | None = None,
) -> Dataset:
    """Load a data set by name or path.

    Args:
        spec: a name (`pathmnist`, `pathmnist_224`, `mnist`, `digits`, …) or the path of an `.npz`.
        data_dir: where named sets are looked up and downloaded to; by default `$XTRAIN_DATA`, else
            `~/.cache/xtrain`.
        classes: names to hold the labels against, in place of the data set's own.
        stream: whether images are read from disk as they are needed, instead of once into memory; None decides
            by the memory that is available.

    Raises:
        ConfigError: an unknown name, with the nearest ones.
        DataError: a file that is missing, corrupt or cannot be downloaded.
    """
    folder = Path(data_dir or os.environ.get("XTRAIN_DATA") or Path.home() / ".cache" / "xtrain").expanduser()
    if _is_path(spec):
        dataset = _name_by_file(_read(Path(spec).expanduser(), folder, stream, classes), named=classes is not None)
    elif spec == "mnist":
        dataset = _mnist(folder)
    elif spec == "digits":
        dataset = _digits()
    elif spec.partition("_")[0] in MEDMNIST and spec.removeprefix(spec.partition("_")[0]) in MEDMNIST_SIZES:
        dataset = _medmnist(spec, folder, stream)
    else:
        raise ConfigError(f"no data set is called {spec!r}, and no such file exists; {nearest(spec, NAMES)}")
    return dataset if classes is None else with_classes(dataset, classes)


def listing() -> list[dict[str, Any]]:
    """Return name, number of images, shape, classes and source of every named data set, as plain JSON values."""
    info = _require("medmnist").INFO
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


def _is_path(spec: str) -> bool:
    return spec.endswith(".npz") or os.sep in spec or Path(spec).is_file()


def _require(module: str) -> Any:
    """Import a library of the `[train]` extra, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"this data set needs {module} ({error}); pip install 'xtrain[train]', or pass the path of an .npz"
        ) from error


def _name_by_file(dataset: Dataset, *, named: bool) -> Dataset:
    """Return the data set with class names and licence of the MedMNIST set that its file is named after."""
    flag = next((name for name in MEDMNIST if dataset.name.startswith(name)), None)
    if flag is None or named or dataset.classes != tuple(map(str, range(len(dataset.classes)))):
        return dataset
    info = _require("medmnist").INFO[flag]
    if len(info["label"]) < len(dataset.classes):
        return dataset
    return replace(dataset, classes=_class_names(info), licence=info["license"])


def _class_names(info: dict[str, Any]) -> tuple[str, ...]:
    return tuple(info["label"][str(index)] for index in range(len(info["label"])))


def _read(path: Path, folder: Path, stream: bool | None, classes: Sequence[str] | None = None) -> Dataset:
    """Read a file into memory or, where it would take more than half of what is available, map it."""
    if stream is None and path.is_file():
        try:
            stream = uncompressed_bytes(path) > available_memory() / 2
        except (zipfile.BadZipFile, OSError):
            stream = False  # `read_npz` says what is wrong with the file
    return read_npz(path, classes, folder if stream else None)


def _medmnist(name: str, folder: Path, stream: bool | None) -> Dataset:
    """Find `name.npz` in the data folder, its `medmnist` subfolder or MedMNIST's own cache; else download it."""
    medmnist = _require("medmnist")
    flag, _, size = name.partition("_")
    info = medmnist.INFO[flag]
    md5 = info[f"MD5_{size}" if size else "MD5"]
    places = [folder, folder / "medmnist", Path.home() / ".medmnist"]
    path = next((place / f"{name}.npz" for place in places if (place / f"{name}.npz").is_file()), None)
    if path is None:
        make = getattr(medmnist, info["python_class"])
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
        _read(path, folder, stream, _class_names(info)),
        name=name,
        licence=info["license"],
        source=f"MedMNIST {medmnist.__version__}",
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
