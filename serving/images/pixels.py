"""Pixels as JSON: nested lists of whole numbers, by themselves or as a tensor of the Open Inference Protocol."""

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from xtrain.errors import XtrainError

MAX_JSON = 16 * 1024 * 1024  # bytes of the text; Python objects take many times its room
MAX_HEAD = 64 * 1024  # bytes of it that are no pixels


class UnreadableJSON(XtrainError):
    """Bytes that are not a JSON object."""


class WrongPixels(XtrainError):
    """JSON that is not the pixels of images."""


def json_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        UnreadableJSON: not JSON, or no object.
    """
    try:
        parsed = orjson.loads(content)
    except ValueError as error:
        raise UnreadableJSON(f"the request is not JSON ({str(error)[:100]})") from error
    if not isinstance(parsed, dict):
        raise UnreadableJSON("the request is not a JSON object")
    return parsed


def parse_pixels(content: bytes) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Return the JSON object of a body without its pixels, and its pixels.

    They are what stands below `images`, or below `data` of the only one of `inputs`; None if nothing does.

    Raises:
        UnreadableJSON: not JSON, or no object.
        WrongPixels: ragged, empty, or other values than whole numbers from 0 to 255, or much beside them.
    """
    head, data = json_object(content), None
    inputs = head.get("inputs")
    if "images" in head:
        data = numbers(head.pop("images"))
    elif isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict) and "data" in inputs[0]:
        data = numbers(inputs[0].pop("data"))
    if len(content) > MAX_HEAD and len(orjson.dumps(head)) > MAX_HEAD:
        raise WrongPixels(f"the JSON beside the pixels is longer than {MAX_HEAD} bytes")
    return head, data


def numbers(data: Any) -> NDArray[np.uint8]:
    """Return nested JSON lists of whole numbers from 0 to 255 as an array.

    Raises:
        WrongPixels: ragged, empty, or other values.
    """
    wrong = WrongPixels("the data is not whole numbers from 0 to 255, in rows of the same length")
    # As objects: numpy would make an array of strings as wide as the longest, gigabytes of a few kilobytes.
    try:
        values = np.asarray(data, dtype=object)
    except ValueError as error:  # deeper than numpy's 64 dimensions
        raise wrong from error
    if not values.size or set(map(type, values.ravel())) != {int}:
        raise wrong
    try:
        numbers = values.astype(np.int64)
    except OverflowError as error:
        raise wrong from error
    if numbers.min() < 0 or numbers.max() > 255:
        raise wrong
    return numbers.astype(np.uint8)
