"""Stand-ins for the real data, so that a fresh clone tests itself: the same file names, layouts, shapes and counts.

RGB tiles are cut from `ihc.png`, a real immunohistochemistry section of colon that ships inside scikit-image's wheel.
They have no labels by a pathologist: a tile's class is the tercile of its brown stain (DAB) crossed with the tercile of
its blue one (haematoxylin), nine classes that are called what they are. Train, validation and test tiles come from
separate parts of the section and share no pixel. The digits of scikit-learn stand for MNIST. No accuracy on them means
anything.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = {"train": 850, "val": 150, "test": 302}  # as in pathmnist-sample.npz
STRIDE, SIDE = 12, 28
# Columns of tiles of each split; two left out between them, so that no tile reaches into another split.
COLUMNS = {"train": [*range(0, 11), *range(31, 41)], "val": range(13, 17), "test": range(19, 27)}
CLASSES = [f"{brown} brown, {blue} blue" for brown in ("little", "some", "much") for blue in ("little", "some", "much")]
TILE_SIDE = 224
TILES = {  # names as in the real folder; where each is cut from the section, and its picture format
    "ADI-TCGA-EENSRDNW.png": (0, 0),
    "DEB-TCGA-AHQCDGMY.png": (0, 288),
    "LYM-TCGA-MDKEPPHR.png": (288, 0),
    "MUC-TCGA-LNNWHFAI.png": (288, 288),
    "MUS-TCGA-HEGPDCFA.png": (144, 144),
    "NORM-TCGA-CKFPHLVW.png": (144, 0),
    "TUM-TCGA-DRHQMTQA.png": (0, 144),
    "ADI-TCGA-IVLMQINC.png": (60, 60),
    "DEB-TCGA-DKYWVQIP.png": (60, 200),
    "LYM-TCGA-FTVCYFDV.png": (200, 60),
    "LYM-TCGA-IVKLLIMT.png": (200, 200),
    "MUC-TCGA-VNRCQTRY.png": (30, 250),
    "STR-TCGA-AAMALCER.tif": (250, 30),
}
IDENTICAL = {"ADI-TCGA-EENSRDNW.png": 0, "LYM-TCGA-MDKEPPHR.png": 1, "TUM-TCGA-DRHQMTQA.png": 2}


def section() -> np.ndarray:
    """Return the section, (512, 512, 3) uint8."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "ihc.png") as image:
        return np.asarray(image.convert("RGB"))


def cut(image: np.ndarray, split: str) -> np.ndarray:
    """Return the first tiles of a split, (N, 28, 28, 3) uint8, shuffled, so that any excerpt holds every class."""
    tops = range(0, image.shape[0] - SIDE + 1, STRIDE)
    corners = [(top, column * STRIDE) for column in COLUMNS[split] for top in tops][: ROWS[split]]
    tiles = np.stack([image[top : top + SIDE, left : left + SIDE] for top, left in corners])
    return tiles[np.random.RandomState(5).permutation(len(tiles))]


def stains(tiles: np.ndarray) -> np.ndarray:
    """Return the mean optical density of brown (DAB) and blue (haematoxylin) of each tile, (N, 2)."""
    from skimage.color import rgb2hed

    densities = rgb2hed(tiles)
    return np.stack([densities[..., 2].mean(axis=(1, 2)), densities[..., 0].mean(axis=(1, 2))], axis=1)


def splits() -> dict[str, np.ndarray]:
    """Return the arrays of the sample in the MedMNIST layout; terciles are those of the training tiles."""
    image = section()
    images = {split: cut(image, split) for split in ROWS}
    for name, row in IDENTICAL.items():  # a tile of 224 pixels, resized, is a row of the test split
        images["test"][row] = np.asarray(tile(image, name).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    densities = {split: stains(tiles) for split, tiles in images.items()}
    brown = np.quantile(densities["train"][:, 0], [1 / 3, 2 / 3])
    third = np.searchsorted(brown, densities["train"][:, 0])
    blue = [np.quantile(densities["train"][third == index, 1], [1 / 3, 2 / 3]) for index in range(3)]
    arrays: dict[str, np.ndarray] = {"class_names": np.array(CLASSES)}
    for split, values in densities.items():
        rows = np.searchsorted(brown, values[:, 0])
        columns = [np.searchsorted(blue[row], value) for row, value in zip(rows, values[:, 1], strict=True)]
        arrays[f"{split}_images"] = images[split]
        arrays[f"{split}_labels"] = (rows * 3 + np.array(columns)).astype(np.uint8)[:, None]
    return arrays


def tile(image: np.ndarray, name: str) -> Image.Image:
    top, left = TILES[name]
    return Image.fromarray(image[top : top + TILE_SIDE, left : left + TILE_SIDE])


def write(folder: Path) -> None:
    """Write every file under the name that the real one has."""
    arrays = splits()
    np.savez(folder / "pathmnist-sample.npz", **arrays)
    write_kaggle(folder, arrays)
    (folder / "tiles").mkdir()
    for name in TILES:
        tile(section(), name).save(folder / "tiles" / name)
    names = sorted(TILES)
    labels = {
        "identical_to_sample_test_row": IDENTICAL,
        "labels": {name: index % 9 for index, name in enumerate(names)},
    }
    (folder / "tiles" / "labels.json").write_text(json.dumps(labels))
    write_idx(folder / "MNIST" / "raw")


def write_kaggle(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the same rows pooled, shuffled and divided 937 to 365, and the held-back labels as ID,CLASS."""
    images = np.concatenate([arrays[f"{split}_images"] for split in ROWS])
    labels = np.concatenate([arrays[f"{split}_labels"] for split in ROWS])
    order = np.random.RandomState(7).permutation(len(images))
    learn, held_back = order[:937], order[937:]
    np.savez(
        folder / "pathmnist-kaggle-sample.npz",
        class_names=arrays["class_names"],
        train_images_shuffled=images[learn],
        train_labels_shuffled=labels[learn],
        test_images_shuffled=images[held_back],
    )
    lines = [f"{index},{labels[row, 0]}" for index, row in enumerate(held_back)]
    (folder / "pathmnist-kaggle-sample-solution.csv").write_text("\n".join(["ID,CLASS", *lines]) + "\n")


def write_idx(folder: Path) -> None:
    """Write scikit-learn's digits as MNIST's four files."""
    from xtrain.data import catalog

    digits = catalog.load("digits").splits["train"]
    assert digits.labels is not None
    folder.mkdir(parents=True)
    for name, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        images, labels = digits.images[rows][..., 0], digits.labels[rows].astype(np.uint8)
        head = (0x803).to_bytes(4, "big") + b"".join(side.to_bytes(4, "big") for side in images.shape)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = (0x801).to_bytes(4, "big") + len(labels).to_bytes(4, "big")
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
