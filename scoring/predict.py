"""Classes of single pictures, from an exported file or from a server; what `xpredict` calls."""

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError, OutputError, XtrainError
from xtrain.files import open_atomic, refuse_existing, refuse_inputs
from xtrain.images import MEDIA_TYPES, read_image

PICTURES_OF_A_RUN = 64
OVERLAY_SIDE = 512  # pixels; what a screen shows
TOKEN_VARIABLE = "XTRAIN_TOKEN"
TIMEOUT_SECONDS = 60
_KINDS = {suffix: kind for kind, name in MEDIA_TYPES.items() for suffix in (kind.partition("/")[2], name.lower())}


class ServerError(XtrainError):
    """A server that cannot be reached, or that answers with an error."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: its path.
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

    def best(self, top: int | None) -> dict[str, float]:
        """Return the probabilities of the `top` classes, None for all."""
        return dict(list((self.probabilities or {}).items())[:top])

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """Return what is known as plain JSON values, with the `top` classes."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {**known, "probabilities": self.best(top)} if self.probabilities else known

    def describe(self, top: int) -> str:
        """Return one line: the file and its `top` classes."""
        ranked = self.best(top).items()
        return f"{self.file}  " + ", ".join(f"{label} {probability:.4f}" for label, probability in ranked)


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
            yield Prediction(str(path), label, ranked[label], ranked), drawn


def _read(path: Path) -> Image.Image | str:
    """Return the picture, or what is wrong with it."""
    try:
        return read_image(path)
    except XtrainError as error:
        return str(error)


def _ask(address: str, files: Sequence[Path], explain: bool) -> Iterator[tuple[Prediction, Image.Image | None]]:
    """Yield predictions and overlays of a server, one request a picture."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()  # files of tokens end with a line end
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    classes = _answer(f"{address}/v1/model", None, headers)["classes"]
    for path in files:
        kind = _KINDS.get(path.suffix.lower().lstrip("."))
        try:
            content = path.read_bytes()
        except OSError as error:
            yield Prediction(str(path), error=f"{path}: {error.strerror}; name an image file"), None
            continue
        if kind is None:
            yield Prediction(str(path), error=f"{path}: not a PNG, JPEG, WebP, BMP or TIFF by its name"), None
            continue
        url = f"{address}/v1/predict?explain={'true' if explain else 'false'}"
        try:
            answer = _answer(url, content, {**headers, "Content-Type": kind})["predictions"][0]
        except _RefusedError as error:
            yield Prediction(str(path), error=f"{path}: {error}"), None
            continue
        values = answer["probabilities"]
        order = sorted(range(len(values)), key=lambda index: -values[index])
        ranked = {classes[index]: float(values[index]) for index in order}
        drawn = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]))) if "heatmap" in answer else None
        yield Prediction(str(path), answer["label"], answer["probability"], ranked), drawn


class _RefusedError(Exception):
    """The server refuses this picture."""


def _answer(url: str, content: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
    """Return the answer as JSON: the card of the model, or the predictions of a picture.

    Raises:
        ServerError, _RefusedError: as `_request`; another answer than a server of this project gives.
    """
    body = _request(url, content, headers)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.get("classes" if content is None else "predictions"):
        raise ServerError(f"{url}: not the answer of xserve; check the address")
    return answer


def _request(url: str, content: bytes | None, headers: dict[str, str]) -> bytes:
    """Return the body of the answer.

    Raises:
        ServerError: no answer, or an error that another picture would get as well.
        _RefusedError: the picture's own fault.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=TIMEOUT_SECONDS) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        try:
            message = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = error.reason
        if content is not None and error.code in (400, 413, 415):
            raise _RefusedError(message) from error
        hint = f"; put a token into {TOKEN_VARIABLE}" if error.code == 401 else ""
        raise ServerError(f"{url}: {error.code} {message}{hint}") from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"{url}: no answer ({reason}); start xserve, or name an .onnx") from error
