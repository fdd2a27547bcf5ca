"""The images that say most about a model: its surest mistakes and what it is least sure of, class by class."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scoring.figures.rows import ScoredRows
from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from xtrain.data.datasets import Images

EACH = 5  # pictures of a class and kind
MOST_CLASSES = 20  # that are shown
SIDE = 112  # pixels, as they are shown; smaller images are enlarged without smoothing


@dataclass(frozen=True)
class Shown:
    """One image of the report: its row in the split, what it is and was taken for, and its pictures as data addresses.

    `heatmap` is the picture under its heatmap, None where the model has none.
    """

    row: int
    label: int
    predicted: int
    probability: float
    label_probability: float
    picture: str
    heatmap: str | None


@dataclass(frozen=True)
class ClassPictures:
    """The images of one true class: mistakes, the surest first, and right or wrong answers, the least sure first."""

    index: int
    rows: int
    wrong: int
    mistakes: list[Shown]
    uncertain: list[Shown]


def choose_pictures(rows: ScoredRows, images: Images, predictor: Predictor) -> list[ClassPictures]:
    """Return the pictures of each class that has rows; of many classes, those with the most mistakes."""
    wrong = np.bincount(rows.labels[~rows.right], minlength=rows.classes)
    count = np.bincount(rows.labels, minlength=rows.classes)
    shown = sorted(np.argsort(-wrong, kind="stable")[:MOST_CLASSES].tolist())
    picked: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for index in (index for index in shown if count[index]):
        own = np.flatnonzero(rows.labels == index)
        by_confidence = own[np.argsort(rows.confidence[own], kind="stable")]
        picked[index] = (by_confidence[::-1][~rows.right[by_confidence[::-1]]][:EACH], by_confidence[:EACH])
    chosen = {int(row) for parts in picked.values() for part in parts for row in part}
    drawn = _draw(rows, images, predictor, sorted(chosen))
    return [
        ClassPictures(
            index=index,
            rows=int(count[index]),
            wrong=int(wrong[index]),
            mistakes=[drawn[int(row)] for row in mistakes],
            uncertain=[drawn[int(row)] for row in uncertain],
        )
        for index, (mistakes, uncertain) in picked.items()
    ]


def _draw(rows: ScoredRows, images: Images, predictor: Predictor, chosen: Sequence[int]) -> dict[int, Shown]:
    """Return the pictures of rows, explained in one run."""
    pixels = np.stack([images[row : row + 1][0] for row in chosen])
    heatmaps = predictor.explain(pixels) if predictor.has_heatmap else [None] * len(chosen)
    drawn = {}
    for row, image, heatmap in zip(chosen, pixels, heatmaps, strict=True):
        picture = _enlarged(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image))
        drawn[row] = Shown(
            row=row,
            label=int(rows.labels[row]),
            predicted=int(rows.predicted[row]),
            probability=float(rows.confidence[row]),
            label_probability=float(rows.probabilities[row, rows.labels[row]]),
            picture=_address(picture),
            heatmap=None if heatmap is None else _address(overlay(picture, heatmap)),
        )
    return drawn


def _enlarged(image: Image.Image) -> Image.Image:
    """Return the image with its longer side at `SIDE` pixels."""
    scale = SIDE / max(image.size)
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), way)


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
