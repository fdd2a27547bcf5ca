"""Classes of single pictures, from an exported file or from a server; what `xpredict` calls."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.client import Client, ServerError
from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError, OutputError, XtrainError
from xtrain.files import open_atomic, refuse_existing, refuse_inputs
from xtrain.images import read_image

PICTURES_OF_A_RUN = 64
OVERLAY_SIDE = 512  # pixels; what a screen shows
RETRIES = 8  # of a busy or restarting server, over a minute; a long run should not end with it
TOKEN_VARIABLE = "XTRAIN_TOKEN"


@dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: its path.
        classes: names of all classes, in the order of the model's card.
        label: name of the most probable class; None where the picture could not be read, and `error` says why.
        probability: of that class.
        probabilities: by class name, the most probable first.
        heatmap: where the picture under its heatmap was written.
        error: what is wrong with the file.
    """

    file: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    heatmap: str | None = None
    error: str | None = None
    classes: tuple[str, ...] = ()

    def best(self, top: int | None) -> dict[str, float]:
        """Return the probabilities of the `top` classes, None for all."""
        return dict(list((self.probabilities or {}).items())[:top])

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """Return what is known as plain JSON values, with the `top` classes."""
        known = {name: value for name, value in asdict(self).items() if value is not None and name != "classes"}
        return {**known, "probabilities": self.best(top)} if self.probabilities else known

    def describe(self, top: int, width: int = 0) -> str:
        """Return one line: the file, filled up to a width, and its `top` classes."""
        ranked = self.best(top).items()
        return f"{self.file:{width}}  " + ", ".join(f"{label} {probability:.4f}" for label, probability in ranked)


def predict_files(
    model: str,
    files: Sequence[Path],
    device: str = "auto",
    heatmap_dir: Path | None = None,
    overwrite: bool = False,
) -> Iterator[Prediction]:
    """Yield the classes of pictures, in order; a file that cannot be read has an `error` and ends nothing.

    Args:
        model: path of an `.onnx`, or address of a server such as `http://127.0.0.1:3000`; its bearer token is taken
            from XTRAIN_TOKEN.
        files: pictures.
        device: for a file.
        heatmap_dir: where each picture under its heatmap goes, as `NAME-heatmap.png`.
        overwrite: whether heatmaps of an earlier command may be replaced; the pictures never are.

    Raises:
        ConfigError: heatmaps of a model that has none.
        ModelFileError, ServerError, OutputError: the model, the server or the folder fails.
    """
    targets = _heatmap_targets(files, heatmap_dir, overwrite) if heatmap_dir else {}
    if model.startswith(("http://", "https://")):
        if device != "auto":
            raise ConfigError("--device is the server's; leave it out")
        answers: Iterator[tuple[Prediction, Image.Image | None]] = _ask(model.rstrip("/"), files, bool(heatmap_dir))
    else:
        answers = _run(Predictor(model, device), files, bool(heatmap_dir))
    for path, (prediction, picture) in zip(files, answers, strict=True):
        if picture is not None:
            target = targets[path]
            with open_atomic(target) as file:
                picture.save(file, "PNG")
            prediction = replace(prediction, heatmap=str(target))
        yield prediction


def _heatmap_targets(files: Sequence[Path], folder: Path, overwrite: bool) -> dict[Path, Path]:
    """Return where each picture's heatmap goes.

    Raises:
        OutputError: two files would have the same, it is one of the pictures or exists, or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; --heatmap takes a folder")
    targets = {path: folder / f"{path.stem}-heatmap.png" for path in files}
    for path, target in targets.items():
        other = next(other for other in files if targets[other] == target)
        if other != path:
            raise OutputError(f"{other} and {path} would both become {target}; give them in two commands")
        refuse_inputs(target, files)
        refuse_existing(target, overwrite)
    return targets


def _run(predictor: Predictor, files: Sequence[Path], explain: bool) -> Iterator[tuple[Prediction, Image.Image | None]]:
    """Yield predictions and overlays from a file, several pictures a run."""
    if explain and not predictor.has_heatmap:
        raise ConfigError(f"{predictor.path}: has no heatmap; export it with --explain, or leave --heatmap out")
    classes = predictor.card.classes
    for start in range(0, len(files), PICTURES_OF_A_RUN):
        part = files[start : start + PICTURES_OF_A_RUN]
        pictures = [_read(path) for path in part]
        readable = [picture for picture in pictures if isinstance(picture, Image.Image)]
        heatmaps: Any = [None] * len(readable)
        if explain and readable:
            probabilities, heatmaps = predictor.predict_and_explain(readable)
        else:
            probabilities = predictor.predict(readable)
        results = zip(probabilities, heatmaps, strict=True)
        for path, picture in zip(part, pictures, strict=True):
            if not isinstance(picture, Image.Image):
                yield Prediction(str(path), error=picture), None
                continue
            values, heatmap = next(results)
            order = np.argsort(-values, kind="stable")
            ranked = {classes[index]: float(values[index]) for index in order}
            label = classes[order[0]]
            drawn = None
            if heatmap is not None:
                picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
                drawn = overlay(picture, heatmap)
            yield Prediction(str(path), label, ranked[label], ranked, classes=classes), drawn


def _read(path: Path) -> Image.Image | str:
    """Return the picture, or what is wrong with it."""
    try:
        return read_image(path)
    except XtrainError as error:
        return str(error)


def _ask(address: str, files: Sequence[Path], explain: bool) -> Iterator[tuple[Prediction, Image.Image | None]]:
    """Yield predictions and overlays of a server."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()  # files of tokens end with a line end
    with Client(address, token=token or None, retries=RETRIES) as client:
        try:
            card = client.card()
            classes = card.get("classes")
            if not classes:
                raise ServerError(f"{address}: not the answer of xserve; check the address")
            for path, answer in zip(files, client.stream(files, explain=explain), strict=True):
                if answer.sha256 not in (None, card["sha256"]):
                    raise ServerError(f"{address}: its model was replaced meanwhile; ask again")
                if answer.error is not None:
                    yield Prediction(str(path), error=f"{path}: {answer.error}"), None
                    continue
                order = sorted(range(len(classes)), key=lambda index: -answer.probabilities[index])  # noqa: B023
                ranked = {classes[index]: answer.probabilities[index] for index in order}
                drawn = None if answer.heatmap is None else Image.open(io.BytesIO(answer.heatmap))
                yield Prediction(str(path), answer.label, answer.probability, ranked, classes=tuple(classes)), drawn
        except ServerError as error:
            hint = f"; put a token into {TOKEN_VARIABLE}" if error.status == 401 else ""
            raise ServerError(f"{error}{hint}", error.status) from error
