"""Encoded images of requests to pixels: at once, by a decoder process, or refused for what it would take.

An image of at most two megapixels is decoded within a small memory limit that no request pays for. A larger one is
first told what it needs, reserves that of the memory budget, and its request decodes one of them at a time.
"""

import time
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request

from serving.http.context import RequestContext, context, engine
from serving.http.errors import HTTPError
from serving.images.messages import Task
from serving.images.pixels import MAX_JSON, parse_pixels
from serving.images.pool import PIXELS_MEMORY, SMALL_MEMORY, DecoderPool, NeedsMemory
from serving.tracing import TRACING
from xtrain.images import MAX_PIXELS, SIMPLE_SIDE, ImageTooLarge, decode_image, fit, is_simple

MIB = 1024 * 1024
MAX_DECODING = 320 * MIB  # that one image may take: 25 megapixels of RGBA and their RGB over white take 200
MAX_REQUEST_PIXELS = 4 * MAX_PIXELS  # of all images of one form together
SMALL_JSON = 64 * 1024  # bytes that are parsed sooner than a process takes them over
MAX_LISTS = PIXELS_MEMORY // 64  # Python keeps an empty list in 64 bytes
JSON_EXPANSION = 10  # bytes of Python objects and arrays that a byte of pixels as JSON takes while it is parsed


async def decode(request: Request, content: bytes, thumbnail: int = 0) -> tuple[NDArray[np.uint8], Image.Image | None]:
    """As `_decode`, within a span."""
    with TRACING.child_span("decode"):
        return await _decode(request, content, thumbnail)


async def _decode(request: Request, content: bytes, thumbnail: int = 0) -> tuple[NDArray[np.uint8], Image.Image | None]:
    """Return an image's pixels (H, W, C) uint8 at the model's native size, and a thumbnail if a side is named.

    Raises:
        UnreadableImage, UnsupportedImage, ImageTooLarge: as `xtrain.images.decode_image`.
        HTTPError: 413, the images of the request have more pixels than is allowed.
        MemoryExhausted: other requests have the memory.
        DecodingLate: not done by the request's deadline.
    """
    current, metrics, shape = context(request), request.app.state.metrics, engine(request).card.shape
    if is_simple(content):
        began = time.perf_counter()
        with suppress(ImageTooLarge):  # Pillow reads another size from it; then it is none that is simple
            image = decode_image(content, SIMPLE_SIDE * SIMPLE_SIDE)
            pixels = fit(image, shape)
            metrics.decoded.observe(time.perf_counter() - began)
            return pixels, image if thumbnail else None
    pool: DecoderPool = request.app.state.decoders
    try:
        task = Task("image", SMALL_MEMORY, 0, shape, thumbnail)
        decoded = await pool.decode(content, task, current.deadline)
        _count(current, decoded.picture_pixels)
    except NeedsMemory as large:
        if large.needs > MAX_DECODING:
            needs = f"decoding the image takes {large.needs} bytes, at most {MAX_DECODING} are given"
            raise ImageTooLarge(f"{needs}; send a smaller one, or 8 bits a channel without transparency") from large
        _count(current, large.pixels)
        task = Task("image", large.needs, 0, shape, thumbnail)
        async with current.decoding_large:
            with current.memory.holding(large.needs):
                decoded = await pool.decode(content, task, current.deadline)
    metrics.decoded.observe(decoded.seconds)
    return decoded.pixels, decoded.thumbnail


async def parse(request: Request, content: bytes) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Return the JSON object of a body without its pixels, and its pixels, as `parse_pixels`.

    Raises:
        UnreadableJSON, WrongPixels: as that.
        HTTPError: 413, longer than `MAX_JSON`, or of more than `MAX_LISTS` lists.
        ImageTooLarge: more lists or numbers than memory is given for.
        MemoryExhausted, DecodingLate: as `decode`.
    """
    current = context(request)
    if len(content) > MAX_JSON:
        raise HTTPError(413, f"the JSON is longer than {MAX_JSON} bytes; send the images as binary data")
    if len(content) <= SMALL_JSON:
        return parse_pixels(content)
    if content.count(b"[") > MAX_LISTS:
        raise HTTPError(413, f"the JSON holds more than {MAX_LISTS} lists; send the images as binary data")
    pool: DecoderPool = request.app.state.decoders
    with current.memory.holding(JSON_EXPANSION * len(content)):
        return await pool.parse_pixels(content, current.deadline)


def _count(current: RequestContext, pixels: int) -> None:
    """Count the pixels that a request has had decoded.

    Raises:
        HTTPError: 413, more than a request may.
    """
    current.pixels += pixels
    if current.pixels > MAX_REQUEST_PIXELS:
        raise HTTPError(413, f"the images have more than {MAX_REQUEST_PIXELS} pixels together; send fewer at a time")
