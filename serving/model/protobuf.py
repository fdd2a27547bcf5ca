"""The fields of a protocol-buffers message, found in its bytes without making objects of them.

https://protobuf.dev/programming-guides/encoding
"""

import mmap
from collections.abc import Iterator

# A number, or the place of a length-delimited value in the bytes.
Value = int | slice
Bytes = mmap.mmap | bytes


def extent(value: Value) -> slice:
    """Return the place of a message.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def fields(data: Bytes, place: slice) -> Iterator[tuple[int, Value]]:
    """Yield the field numbers and values of one message, in order.

    Raises:
        ValueError, IndexError: it is none.
    """
    at, end = place.start, place.stop
    while at < end:
        tag, at = _varint(data, at)
        if not 8 <= tag < 1 << 32:  # other readers drop the bits above: the same bytes must mean the same to all
            raise ValueError("a field has no valid number")
        kind, value = tag & 7, 0
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"an unknown wire type {kind}")
        if at + length > end:
            raise ValueError("it ends too early")
        yield tag >> 3, slice(at, at + length)
        at += length


def _varint(data: Bytes, at: int) -> tuple[int, int]:
    """Return a base-128 number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
