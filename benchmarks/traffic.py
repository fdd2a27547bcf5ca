"""What a soak sends: requests that fit, with the answer each must get, and those that do not, with their statuses."""

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import npy, png

Images = NDArray[np.uint8]
# What a model says of every image, by the model's digest: probabilities (N, classes).
Truth = dict[str, NDArray[np.float32]]
TOLERANCE = 1e-5  # rows of another batch are added up in another order
MIB = 1024 * 1024
BUSY = 429  # the server's memory or queue is full: an answer to anything


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


# An answer's digest, where it carries one, and its probabilities (n, classes) or classes (n,).
Reader = Callable[[Answer], tuple[str | None, NDArray[np.float32] | NDArray[np.int64]]]


@dataclass(frozen=True)
class Good:
    """A request that fits, and the images it asks for."""

    name: str
    content: bytes
    rows: tuple[int, ...]
    read: Reader
    refused: tuple[int, ...] = (429, 504)  # what a busy server may say instead

    def fault(self, answer: Answer, truth: Truth) -> str | None:
        """What is wrong with its answer."""
        if answer.status in self.refused:
            return None
        if answer.status != 200:
            return f"{answer.status} {answer.content[:200]!r}"
        digest, found = self.read(answer)
        for known, probabilities in truth.items():
            wanted = probabilities[list(self.rows)]
            if digest not in (known, None) or len(found) != len(wanted):
                continue
            if found.ndim == 2 and np.allclose(found, wanted, atol=TOLERANCE, rtol=0):
                return None
            if found.ndim == 1 and (wanted[np.arange(len(found)), found] >= wanted.max(axis=1) - TOLERANCE).all():
                return None
        return f"a wrong answer: {answer.content[:200]!r}"


@dataclass(frozen=True)
class Bad:
    """A request that is refused; `whole` ones leave their connection ready for the next."""

    name: str
    content: bytes
    statuses: tuple[int, ...]
    whole: bool = True

    def fault(self, answer: Answer, truth: Truth) -> str | None:
        """What is wrong with its answer."""
        return None if answer.status in (*self.statuses, BUSY) else f"{answer.status} {answer.content[:200]!r}"


Request = Good | Bad


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection.

    Raises:
        EOFError: the connection ended before.
    """
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = headers.get("content-length")
    content = await (reader.read() if length is None else reader.readexactly(int(length)))
    return Answer(int(first.split(" ", 2)[1]), headers, content)


def post(path: str, kind: str, body: bytes, *fields: str) -> bytes:
    """A whole POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    """A whole GET."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def good(images: Images, names: Sequence[str], large: bytes) -> list[Good]:
    """One of each kind for some images.

    Args:
        images: uint8 (N, H, W, C), N at least 300.
        names: of the models that answer in turn.
        large: an encoded image whose pixels are the last of `images`.
    """
    shape = images.shape[1:]
    found = [Good("one PNG", post("/v1/predict?top=2", "image/png", png(images[row])), (row,), _json) for row in (0, 7)]
    found += [Good("a large image", post("/v1/predict", "image/png", large), (len(images) - 1,), _json)]
    for start, count in ((0, 5), (10, 64), (0, 300)):
        body = npy(images[start : start + count])
        rows = tuple(range(start, start + count))
        found += [Good(f"an array of {count}", post("/v1/predict", "application/x-npy", body), rows, _json)]
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="%d.png"\r\n\r\n' % row + png(images[row])
        for row in range(6)
    ]
    form = b"\r\n".join(parts) + b"\r\n--b--\r\n"
    found += [Good("a form of 6", post("/v1/predict", "multipart/form-data; boundary=b", form), tuple(range(6)), _json)]
    nested = json.dumps({"images": images[:3].tolist()}).encode()
    found += [Good("pixels as JSON", post("/v1/classify", "application/json", nested), (0, 1, 2), _json)]
    packed = io.BytesIO()
    np.savez_compressed(packed, test_images=images[:200])
    scored = post("/v1/score", "application/zip", packed.getvalue())
    found += [Good("a CSV of 200", scored, tuple(range(200)), _csv)]
    for name in names:
        tensor = {"name": "images", "datatype": "UINT8", "shape": [4, *shape], "parameters": {"binary_data_size": 0}}
        raw = images[20:24].tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
        extra = f"Inference-Header-Content-Length: {len(head)}"
        asked = post(f"/v2/models/{name}/infer", "application/octet-stream", head + raw, extra)
        # The other model may be the one that answers now.
        found += [Good("a binary tensor", asked, (20, 21, 22, 23), _tensor, (404, 429, 504))]
    return found


def bad(images: Images, admin: str, broken: str) -> list[Bad]:
    """One of each kind.

    Args:
        images: uint8 (N, H, W, C).
        admin: the token that may swap.
        broken: a file in the models' folder that is no model.
    """
    whole, array = png(images[0]), npy(images[:2])
    arrays, images_at = "application/x-npy", "/v1/predict"
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, images=np.zeros((70 * MIB // images[0].size, *images.shape[1:]), np.uint8))
    declared = post(images_at, "image/png", bytes(17 * MIB))[: 64 * 1024]
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    chunked = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    may = f"Authorization: Bearer {admin}"
    return [
        Bad("a bomb", post(images_at, "image/png", bomb(whole, 30_000)), (413,)),
        Bad("a truncated PNG", post(images_at, "image/png", whole[: len(whole) // 2]), (400,)),
        Bad("no image", post(images_at, "image/jpeg", b"\xff\xd8\xff" + bytes(500)), (400,)),
        Bad("another type", post(images_at, "text/html", whole), (415,)),
        Bad("an empty body", post(images_at, "image/png", b""), (400,)),
        Bad("a wrong shape", post(images_at, arrays, npy(images[:2, 1:])), (422,)),
        Bad("a wrong dtype", post(images_at, arrays, npy(images[:2].astype(np.float64))), (422,)),
        Bad("an array cut off", post(images_at, arrays, array[:-9]), (400,)),
        Bad("a pickle", post(images_at, arrays, pickled.getvalue()), (400,)),
        Bad("an array that lies", post(images_at, arrays, array.replace(b"(2, ", b"(9, ")), (400,)),
        Bad("a packed bomb", post("/v1/score", "application/zip", packed.getvalue()), (413,)),
        Bad("a cut archive", post("/v1/score", "application/zip", packed.getvalue()[:-30]), (400,)),
        Bad("too much, as declared", declared, (413,), whole=False),
        Bad("too much, in chunks", chunked + 17 * chunk, (413,), whole=False),
        Bad("deep JSON", post("/v1/classify", "application/json", b"[" * 100_000), (400,)),
        Bad("a wrong option", post("/v1/predict?top=x", "image/png", whole), (422,)),
        Bad("another method", get("/v1/predict"), (405,)),
        Bad("another model", post("/v2/models/none/infer", "application/json", b"{}"), (404,)),
        Bad("a swap without a token", post("/v1/model", "application/json", b"{}"), (401,)),
        Bad("a swap to nowhere", post("/v1/model", "application/json", b'{"path": "../x.onnx"}', may), (422,)),
        Bad(
            "a swap to ruins", post("/v1/model", "application/json", json.dumps({"path": broken}).encode(), may), (422,)
        ),
        Bad("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n", (400,), whole=False),
    ]


def bomb(image: bytes, side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""
    header = image[12:16] + struct.pack(">II", side, side) + image[24:29]
    return image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:]


def _json(answer: Answer) -> tuple[str | None, NDArray[np.float32]]:
    found = json.loads(answer.content)
    return found["sha256"], np.array([item["probabilities"] for item in found["predictions"]], np.float32)


def _tensor(answer: Answer) -> tuple[str | None, NDArray[np.float32]]:
    found = json.loads(answer.content)["outputs"][0]
    return None, np.array(found["data"], np.float32).reshape(found["shape"])


def _csv(answer: Answer) -> tuple[str | None, NDArray[np.int64]]:
    rows = [line.split(",") for line in answer.content.decode().split()[1:]]
    return answer.headers["x-model-sha256"], np.array([int(label) for _, label in rows])
