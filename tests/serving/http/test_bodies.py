"""Arrays in bodies: parsed without a copy, whatever the header says, and from several threads."""

import gc
import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from serving.http.bodies import array
from serving.http.errors import HTTPError

SHAPE = (4, 5, 3)
IMAGES = np.arange(7 * 4 * 5 * 3, dtype=np.uint8).reshape(7, *SHAPE)


def npy(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version)
    return buffer.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_array_is_that_of_numpy(version: tuple[int, int], order: str) -> None:
    content = npy(np.asarray(IMAGES, order=order), version)  # type: ignore[call-overload]
    got = array(content + b"more", SHAPE)
    assert (got == IMAGES).all() and got.flags["C_CONTIGUOUS"]
    if order == "C":
        assert not got.flags["OWNDATA"], "the body is not copied"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\x93NUMPY", 400),
        (b"\x93NUMPY\x03\x00", 400),
        (npy(IMAGES)[:-1], 400),
        (npy(IMAGES).replace(b"(7, 4", b"(-1, 4"), 400),
        (npy(IMAGES).replace(b"(7, 4, 5, 3)", b"(7, 99999999999999, 99999999999999, 3)"), 400),
        (npy(IMAGES).replace(b"|u1", b"|O "), 400),
        (npy(IMAGES).replace(b"|u1", b"<f4"), 400),
        (npy(IMAGES.astype(np.float32)), 422),
        (npy(IMAGES[:0]), 422),
        (npy(IMAGES[0]), 422),
        (npy(np.uint8(3)), 422),
        (b"PK\x03\x04", 400),
    ],
)
def test_what_is_no_array_of_images(content: bytes, status: int) -> None:
    with pytest.raises(HTTPError) as caught:
        array(content, SHAPE)
    assert caught.value.status == status


@pytest.fixture
def switching() -> Iterator[None]:
    """Let a garbage collection in the middle of anything switch to another thread, as it may at any time."""
    thresholds = gc.get_threshold()

    def switch(*_: object) -> None:
        time.sleep(0)

    gc.set_threshold(20)
    gc.callbacks.append(switch)
    yield
    gc.callbacks.remove(switch)
    gc.set_threshold(*thresholds)


def test_headers_are_parsed_by_many_threads(switching: None) -> None:
    """`numpy.load` alone raises SystemError here: a few times in a thousand."""
    content, errors = npy(IMAGES), []

    def parse(depth: int) -> None:
        if depth:
            return parse(depth - 1)
        for _ in range(500):
            try:
                array(content, SHAPE)
            except Exception as error:
                errors.append(error)
        return None

    threads = [threading.Thread(target=parse, args=(index * 3,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
