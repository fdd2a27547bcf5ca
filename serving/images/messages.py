"""What a server and its decoder processes say to each other: a JSON head and raw bytes, each after its length."""

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

LENGTHS = struct.Struct("!IQ")


@dataclass(frozen=True)
class Task:
    """What to do with the bytes that follow.

    Attributes:
        kind: `image` or `pixels`, the latter as JSON.
        memory: bytes that decoding may take; an image that takes more is answered with its `needs`.
        seconds: after which the process ends itself.
        shape: the model's native (H, W, C), of an image.
        thumbnail: side in pixels of a thumbnail to return too; 0 for none.
    """

    kind: str
    memory: int
    seconds: float
    shape: tuple[int, int, int] = (0, 0, 0)
    thumbnail: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task; the raw bytes that follow are the pixels, and then the thumbnail's.

    Attributes:
        error: name of the exception's class, empty if there was none.
        message: the exception's.
        shape: of the pixels, uint8.
        thumbnail: shape of the thumbnail.
        seconds: that decoding took.
        picture_pixels: of the encoded image.
        needs: bytes that decoding would take, if that is more than the task allowed.
        head: the JSON object of `pixels`, without the pixels.
    """

    error: str = ""
    message: str = ""
    shape: tuple[int, ...] = ()
    thumbnail: tuple[int, ...] = ()
    seconds: float = 0.0
    picture_pixels: int = 0
    needs: int = 0
    head: dict[str, Any] | None = None


def lead(head: Task | Outcome, length: int) -> bytes:
    """Return what stands before `length` raw bytes."""
    text = json.dumps(asdict(head)).encode()
    return LENGTHS.pack(len(text), length) + text
