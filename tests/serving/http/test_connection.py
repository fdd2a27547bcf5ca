"""What a client can leave open is closed: heads without an end, silence, answers that nobody reads."""

import contextlib
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving.http.test_app import npy
from tests.serving.server import running

TIMEOUT = 2.0


@pytest.fixture(scope="module")
def address(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with running(sample_model, tmp_path_factory.mktemp("home"), "--timeout", str(TIMEOUT)) as client:
        assert client.base_url.port
        yield client.base_url.host, client.base_url.port
        assert client.get("/readyz").status_code == 200


def rest(connection: socket.socket) -> bytes:
    """All until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of an error in the one shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "request_id"} and f"x-request-id: {error['request_id']}" in lines
    assert "connection: close" in lines and f"content-length: {len(body)}" in lines
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /v1/model HTTP/1.1\r\nX: ",  # one header
        b"GET /v1/model?",  # the path
        b"POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1;",  # of a chunk
    ],
)
def test_a_head_without_an_end(address: tuple[str, int], begin: bytes) -> None:
    with socket.create_connection(address, 10) as connection:
        connection.sendall(begin)
        sent = 0
        try:
            for _ in range(1000):
                connection.sendall(b"a" * 1024)
                sent += 1024
                time.sleep(0.001)
        except OSError:
            pass
        assert 60_000 < sent < 500_000


def test_what_is_told_of_a_head(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 10) as connection:
        connection.sendall(b"GET /v1/model HTTP/1.1\r\nX: " + b"a" * 66_000)
        assert refusal(rest(connection)) == (431, "too_large")
    with socket.create_connection(address, 10) as connection:
        connection.sendall(b"GET /v1/model HTTP/1.1\r\nX: " + b"a" * 60_000 + b"\r\nConnection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200")
    with socket.create_connection(address, 10) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert refusal(rest(connection)) == (400, "unreadable")


@pytest.mark.parametrize("first", [b"", b"GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_stops(address: tuple[str, int], first: bytes) -> None:
    """At once, and after a request that was answered."""
    with socket.create_connection(address, 10) as connection:
        if first:
            connection.sendall(first)
            while b'"sha256"' not in connection.recv(65536):
                pass
        began = time.monotonic()
        connection.sendall(b"GET /v1/mod")
        assert refusal(rest(connection)) == (408, "body_late")
        assert TIMEOUT * 0.9 < time.monotonic() - began < TIMEOUT + 3


@pytest.mark.parametrize(
    "begin", [b"", b"POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 99999999\r\n\r\nabc"]
)
def test_silence(address: tuple[str, int], begin: bytes) -> None:
    """Of a client that says nothing, and of one whose too large body is refused and does not come."""
    with socket.create_connection(address, 10) as connection:
        connection.sendall(begin)
        began = time.monotonic()
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 413" if begin else b"") and (begin or not answer)
        assert time.monotonic() - began < 3 * TIMEOUT


def unread(address: tuple[str, int], room: int) -> socket.socket:
    """A connection with large answers under way, of 7 MB, and little room for them."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.settimeout(20)
    connection.connect(address)
    body = npy(np.zeros((2000, 28, 28, 3), np.uint8))
    head = f"POST /v1/predict?top=9 HTTP/1.1\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.suppress(ConnectionResetError):  # given up before all is sent, where buffers are small
        connection.sendall((head.encode() + body) * 4)
    return connection


def test_an_answer_that_nobody_reads(address: tuple[str, int]) -> None:
    with (
        unread(address, 4096) as connection,
        httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client,
    ):
        time.sleep(2 * TIMEOUT + 1)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            answers = rest(connection)
        assert answers.count(b"]}]}") < 4, "it is closed before all is answered"
        assert "xtrain_waiting_images 0.0" in client.get("/metrics").text


def test_an_answer_that_is_read_slowly(address: tuple[str, int]) -> None:
    with unread(address, 32_768) as connection:
        found, began = io.BytesIO(), time.monotonic()
        while found.getvalue().count(b'"predictions"') < 4 or not found.getvalue().endswith(b"]}]}"):
            found.write(connection.recv(100_000))
            time.sleep(0.02)
            assert time.monotonic() - began < 60
        assert found.getvalue().count(b"HTTP/1.1 200") == 4
        assert time.monotonic() - began > TIMEOUT, "it was not slow enough to show anything"
