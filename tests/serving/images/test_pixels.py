"""Pixels as JSON."""

import tracemalloc
from typing import Any

import pytest

from serving.images.pixels import UnreadableJSON, WrongPixels, numbers, parse_pixels


def test_numbers_take_no_more_memory_than_they_are() -> None:
    """140 KB of JSON made numpy ask for 4 GB: an array of strings is as wide as its longest."""
    tracemalloc.start()
    with pytest.raises(WrongPixels, match="whole numbers"):
        numbers(["a" * 100_000] + [""] * 10_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert numbers([[0, 255], [7, 8]]).tolist() == [[0, 255], [7, 8]]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "data", [nested(65), nested(500), [], [[]], [1, [2]], 1.5, [True], "7", None, {}, 2**70, -1, 256]
)
def test_what_are_no_pixels(data: Any) -> None:
    with pytest.raises(WrongPixels):
        numbers(data)


def test_pixels_are_taken_out_of_either_kind_of_request() -> None:
    head, pixels = parse_pixels(b'{"images": [[1, 2]], "top": 3}')
    assert head == {"top": 3} and pixels is not None and pixels.tolist() == [[1, 2]]
    head, pixels = parse_pixels(b'{"inputs": [{"name": "images", "data": [7]}]}')
    assert head == {"inputs": [{"name": "images"}]} and pixels is not None and pixels.tolist() == [7]
    with pytest.raises(WrongPixels, match="beside the pixels"):
        parse_pixels(b'{"images": [[1]], "x": [' + b"1," * 40_000 + b"1]}")
    assert parse_pixels(b'{"inputs": [1]}') == ({"inputs": [1]}, None)
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(UnreadableJSON):
            parse_pixels(content)
