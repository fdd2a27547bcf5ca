"""Request bodies: read up to a limit, and parsed into images; every fault is the client's and has its status."""

import io
import math
import threading
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serving.http.context import context
from serving.http.errors import HTTPError
from serving.http.operations import MediaType, Operation
from serving.http.threads import run_in_thread
from serving.scheduling.memory import MemoryExhausted
from xtrain.data.datasets import SCORED_KEYS

T = TypeVar("T")

MAX_PARTS = 1024
MAX_ENTRIES = 1000  # of an .npz; zipfile keeps 500 bytes of each
CENTRAL_ENTRY = b"PK\x01\x02"
ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")
UNPACKED_AT_ONCE = 1024 * 1024
SMALL_BYTES = 64 * 1024  # parsed sooner than a thread takes them over
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# Python's parser of literals, which numpy reads the header with, raises SystemError where a garbage collection in the
# middle of it lets another thread parse: seen in a soak of Python 3.11.7.
NPY_HEADER_LOCK = threading.Lock()


@dataclass(frozen=True)
class Part:
    """One file of a multipart body."""

    name: str
    content: bytes


async def run_off_loop(size: int, call: Callable[[], T]) -> T:
    """Return `call()`, which parses `size` bytes: on a thread if they are many, so that the loop goes on."""
    return call() if size <= SMALL_BYTES else await run_in_thread(call)


def media_type(request: Request) -> str:
    """Return the content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def accepted(request: Request) -> tuple[str, MediaType]:
    """Return the media type of the request's body, and its entry in the operation's table.

    Raises:
        HTTPError: 415, the operation does not take it.
    """
    operation: Operation = request.scope["operation"]
    kind = media_type(request)
    if kind in operation.body:
        return kind, operation.body[kind]
    if operation.any_body:
        return next(iter(operation.body.items()))
    raise HTTPError(415, f"content type {kind or '(none)'} is not taken; send one of {', '.join(operation.body)}")


async def read(request: Request, may_be_empty: bool = False) -> bytes:
    """Return the body, refused as soon as it is longer than allowed, whatever Content-Length said.

    Raises:
        HTTPError: 415 another media type or encoding, 413 too long, 400 empty or cut off.
        MemoryExhausted: other requests have the memory.
    """
    current = context(request)
    limit = accepted(request)[1].max_bytes(request.app.state.settings)
    too_large = HTTPError(413, f"the body is longer than {limit} bytes; send less at a time")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    encoding = _encoding(request)
    parts, length = [], 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            if length > limit:
                raise too_large
            current.memory.reserve(len(chunk))
            current.extend(len(chunk))
            parts.append(chunk)
    except ClientDisconnect as error:
        raise HTTPError(400, "the body ended before it was whole; send it again") from error
    if not length and not may_be_empty:
        raise HTTPError(400, "the body is empty; send the bytes of one image, or many as multipart or npy")
    current.body_received(request.scope)
    content = b"".join(parts)
    if encoding == "identity" or not content:
        return content
    return await run_in_thread(lambda: unpack(content, limit, current.memory.reserve))


def unpack(content: bytes, limit: int, reserve: Callable[[int], None]) -> bytes:
    """Return a body that was packed with gzip or deflate, the latter with or without zlib's header.

    Args:
        content: the packed body.
        limit: bytes that are unpacked at most.
        reserve: called with the bytes that are unpacked.

    Raises:
        HTTPError: 413 longer than `limit` once unpacked, 400 damaged or cut off.
        MemoryExhausted: as `reserve`.
    """
    has_header = content[:2] == b"\x1f\x8b" or (content[0] & 15 == 8 and int.from_bytes(content[:2]) % 31 == 0)
    unpacking = zlib.decompressobj(32 + zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    parts, length, rest = [], 0, content
    try:
        while not unpacking.eof and (part := unpacking.decompress(rest, UNPACKED_AT_ONCE)):
            reserve(len(part))
            length, rest = length + len(part), unpacking.unconsumed_tail
            if length > limit:
                raise HTTPError(413, f"the body unpacks to more than {limit} bytes; send less at a time")
            parts.append(part)
    except zlib.error as error:
        raise HTTPError(400, f"the body is not what its Content-Encoding says ({error})") from error
    if not unpacking.eof or unpacking.unused_data:
        raise HTTPError(400, "the packed body is cut off, or more follows it; send it again")
    return b"".join(parts)


def _encoding(request: Request) -> str:
    """Return how the body is packed.

    Raises:
        HTTPError: 415 another way than gzip or deflate.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        accepted = {"Accept-Encoding": "gzip, deflate"}
        raise HTTPError(415, f"content encoding {encoding[:20]!r} is not taken; use gzip, deflate or none", accepted)
    return encoding


async def files(request: Request, content: bytes) -> list[Part]:
    """Return the files of a `multipart/form-data` body, in order.

    Raises:
        HTTPError: 400 not multipart, or without a file; 413 too many.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    parser = MultiPartParser(
        request.headers, stream(), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=len(content)
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 400
        raise HTTPError(status, f"the multipart body is not readable: {error.message}") from error
    except KeyError as error:
        raise HTTPError(400, "the multipart body has no boundary in its Content-Type") from error
    parts = [
        Part(value.filename or name, await value.read())
        for name, value in form.multi_items()
        if isinstance(value, UploadFile)
    ]
    await form.close()
    if not parts:
        raise HTTPError(400, "the multipart body has no file; send each image as one, with a filename")
    return parts


def array(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the images (N, H, W, C) uint8 of an `.npy` body.

    Raises:
        HTTPError: 400 not an npy file, or cut off; 422 another dtype or shape.
    """
    if content.startswith(b"PK"):
        raise HTTPError(400, "the body is an .npz, not an .npy; send one array")
    try:
        loaded = _parse_npy(content)
    except Exception as error:  # numpy raises many kinds for bytes that are no array
        raise HTTPError(400, f"the body is no .npy array ({_first(error)}); save it with numpy.save") from error
    return check_images(loaded, shape)


def _parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array of an `.npy` without copying its values.

    Raises:
        ValueError: no such file, of Python objects, or shorter than its header says.
    """
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    if version not in NPY_HEADERS:
        raise ValueError(f"format {version} is not read")
    with NPY_HEADER_LOCK:
        sizes, is_fortran, dtype = NPY_HEADERS[version](buffer, max_header_size=4096)
    if dtype.hasobject or any(size < 0 for size in sizes):
        raise ValueError("it holds objects, or has no size")
    count, start = math.prod(sizes), buffer.tell()
    if count * dtype.itemsize > len(content) - start:
        raise ValueError("it ends too early")
    values = np.frombuffer(content, dtype, count, start) if count else np.empty(0, dtype)
    return values.reshape(sizes, order="F" if is_fortran else "C")


def check_images(images: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the array as C-contiguous images (N, H, W, C); a grey model takes (N, H, W) too.

    Raises:
        HTTPError: 422 another dtype or shape, or no image.
    """
    if shape[2] == 1 and images.shape[1:] == shape[:2]:
        images = images[..., None]
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        sides = ", ".join(map(str, shape))
        raise HTTPError(
            422, f"the array is {images.dtype} {tuple(images.shape)}; the model takes uint8 (N, {sides}), unresized"
        )
    if not len(images):
        raise HTTPError(422, "the array has no image; send at least one")
    return np.ascontiguousarray(images)


def required(images: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return the images that a JSON body must have.

    Raises:
        HTTPError: 422 it has none.
    """
    if images is None:
        raise HTTPError(422, "the JSON has no pixels; send them below 'images', or as the data of an input")
    return images


def archive(
    content: bytes, shape: tuple[int, int, int], limit: int, reserve: Callable[[int], None]
) -> NDArray[np.uint8]:
    """Return the images (N, H, W, C) of an `.npz` or `.npy` body.

    In an `.npz` they are the array called `images`, the test images of the MedMNIST, Kaggle or Keras layout, or the
    only array. `reserve` is called with the bytes that are unpacked, before they are.

    Raises:
        HTTPError: 400 not readable; 413 more than `limit` bytes once unpacked, or too many files; 415 packed with
            bzip2 or LZMA; 422 no such array, or a wrong one.
        MemoryExhausted: as `reserve`.
    """
    if not content.startswith(b"PK"):
        return array(content, shape)
    if content.count(CENTRAL_ENTRY) > MAX_ENTRIES:
        raise HTTPError(413, f"the .npz holds more than {MAX_ENTRIES} files; send the one array")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            names = {name.removesuffix(".npy"): name for name in packed.namelist()}
            chosen = [name for name in SCORED_KEYS if name in names]
            if not chosen and len(names) == 1:
                chosen = list(names)
            if not chosen:
                raise HTTPError(
                    422, f"the .npz holds {', '.join(sorted(names)[:5])}; name the array of images 'images'"
                )
            member = packed.getinfo(names[chosen[0]])
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # The others zipfile unpacks all at once, however little is read: gigabytes from a few kilobytes.
                raise HTTPError(415, "the .npz is packed in another way than numpy's; save it with numpy.savez")
            if member.file_size > limit:
                raise HTTPError(413, f"the array unpacks to {member.file_size} bytes, at most {limit} are taken")
            reserve(member.file_size)
            with packed.open(member) as file:
                unpacked = file.read(member.file_size)  # as the sender says, but no more
    except (HTTPError, MemoryExhausted):
        raise
    except Exception as error:  # zipfile and zlib raise many kinds for damaged archives
        raise HTTPError(400, f"the body is no readable .npz ({_first(error)})") from error
    return array(unpacked, shape)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
