"""Clients that exist: each sends a picture, and a body that is refused before it is whole, and reads both answers."""

import gzip
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import requests

from tests.serving.http.test_app import npy
from tests.serving.server import running

TOKEN = "letters-and-digits-1"
LARGE = 24 * 1024 * 1024  # beyond the 16 MiB of one image, and beyond what sockets buffer
REFUSED = [  # path, media type, token, status
    ("/v1/predict", "image/png", TOKEN, 413),
    ("/v1/predict", "text/plain", TOKEN, 415),
    ("/v1/nothing", "image/png", TOKEN, 404),
    ("/v1/predict", "image/png", "wrong", 401),
    ("/v2/models/none/infer", "application/json", TOKEN, 404),
]
JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;

public class Client {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();  // offers h2c
        for (String path : new String[] {words[1], words[2]}) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0] + "/v1/predict"))
                .header("Content-Type", "image/png").header("Authorization", "Bearer " + words[3])
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(path))).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode());
        }
    }
}
"""
NODE = """
const [address, small, large, token] = process.argv.slice(2);
const { readFileSync } = require("fs");
(async () => {
  for (const path of [small, large]) {
    const answer = await fetch(address + "/v1/predict", {
      method: "POST", body: readFileSync(path),
      headers: { "Content-Type": "image/png", Authorization: "Bearer " + token },
    });
    await answer.text();
    console.log(answer.status);
  }
})();
"""


@pytest.fixture(scope="module")
def client(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("home")
    (home / "tokens").write_text(TOKEN)
    with running(sample_model, home, "--tokens", str(home / "tokens")) as client:
        yield client


@pytest.fixture(scope="module")
def tile(data_dir: Path) -> Path:
    return data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.png"
    path.write_bytes(bytes(LARGE))
    return path


def address(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


@pytest.mark.parametrize(("path", "kind", "token", "status"), REFUSED)
def test_urllib(client: httpx.Client, path: str, kind: str, token: str, status: int) -> None:
    """It sends `Connection: close` and the whole body before it reads; a reset would lose the answer."""
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    for _ in range(6):
        request = urllib.request.Request(address(client) + path, bytes(LARGE), headers)
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(request, timeout=30)
        with answer.value:
            assert answer.value.code == status and json.load(answer.value)["error"]


@pytest.mark.parametrize(("path", "kind", "token", "status"), REFUSED)
def test_requests_and_httpx(client: httpx.Client, path: str, kind: str, token: str, status: int) -> None:
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    for more in ({}, {"Connection": "close"}):
        answer = requests.post(address(client) + path, data=bytes(LARGE), headers={**headers, **more}, timeout=30)
        assert answer.status_code == status and answer.json()["error"]
        other = client.post(path, content=bytes(LARGE), headers={**headers, **more})
        assert other.status_code == status and other.json()["error"]


def test_curl(client: httpx.Client, tile: Path, large: Path, tmp_path: Path) -> None:
    for path, more, status in ((tile, [], 200), (large, [], 413), (large, ["-H", "Expect:"], 413)):
        options = ["-s", "-o", tmp_path / "out", "-w", "%{http_code}", "-H", "Content-Type: image/png"]
        command = ["curl", *options, "-H", f"Authorization: Bearer {TOKEN}", *more, "--data-binary", f"@{path}"]
        command += ["--max-time", "30", f"{address(client)}/v1/predict"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == str(status), (done.stdout, done.stderr)
        assert json.loads((tmp_path / "out").read_text())


@pytest.mark.skipif(shutil.which("java") is None, reason="needs a Java runtime that compiles")
def test_java_with_its_offer_of_http_2(client: httpx.Client, tile: Path, large: Path, tmp_path: Path) -> None:
    (tmp_path / "Client.java").write_text(JAVA)
    command = ["java", str(tmp_path / "Client.java"), address(client), str(tile), str(large), TOKEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["200", "413"], done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_fetch_of_node(client: httpx.Client, tile: Path, large: Path, tmp_path: Path) -> None:
    (tmp_path / "client.js").write_text(NODE)
    command = ["node", str(tmp_path / "client.js"), address(client), str(tile), str(large), TOKEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["200", "413"], done.stderr


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Statuses and bodies of so many answers on one connection."""
    found, text = [], b""
    while len(found) < count:
        while b"\r\n\r\n" not in text:
            text += connection.recv(65536)
        head, _, text = text.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        while len(text) < length:
            text += connection.recv(65536)
        found.append((int(head.split()[1]), text[:length]))
        text = text[length:]
    assert not text
    return found


def test_an_offer_can_be_split_anywhere_and_its_body_is_no_request(client: httpx.Client) -> None:
    """A body that looks like a request: taken for one, it would pass whatever checks the first request."""
    body = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Type: image/png\r\n"
    fields = f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head + fields.encode() + body
    address = ("127.0.0.1", client.base_url.port or 0)
    for cut in [*range(1, len(request), 3), len(request)]:
        with socket.create_connection(address, 10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request[:cut])
            if cut < len(request):
                time.sleep(0.002)
                connection.sendall(request[cut:])
            ((status, content),) = answers(connection, 1)
            assert status == 400 and b"no image of a known format" in content, cut
            connection.settimeout(0.01)
            with pytest.raises(TimeoutError):
                connection.recv(1)
    with socket.create_connection(address, 10) as connection:  # pipelined, in one segment
        connection.sendall(b"\r\n\r\n" + request * 3)
        assert [status for status, _ in answers(connection, 3)] == [400, 400, 400]
    with socket.create_connection(address, 10) as connection:
        connection.sendall(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_what_is_no_http_behind_a_request_does_not_cost_its_answer(client: httpx.Client) -> None:
    body = npy(np.zeros((1, 28, 28, 3), np.uint8))
    fields = f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    address = ("127.0.0.1", client.base_url.port or 0)
    with socket.create_connection(address, 10) as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n" + fields.encode() + body + b"\0\1garbage\r\n\r\n"
        )
        assert answers(connection, 1)[0][0] == 200
        assert connection.recv(100) == b""
    with socket.create_connection(address, 10) as connection:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(head + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode() + b"zz\r\nabc\r\n")
        assert answers(connection, 1)[0][0] == 400


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_of_another_protocol_is_ignored(client: httpx.Client, name: bytes) -> None:
    body = npy(np.zeros((1, 28, 28, 3), np.uint8))
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\n"
    fields = f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 10) as connection:
        for _ in range(2):
            connection.sendall(head % name + fields.encode() + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.settimeout(0.2)
            try:
                while connection.recv(65536):
                    pass
            except TimeoutError:
                connection.settimeout(10)


def test_packed_bodies(client: httpx.Client, tile: Path) -> None:
    content, token = tile.read_bytes(), {"Authorization": f"Bearer {TOKEN}"}
    headers = {"Content-Type": "image/png", **token}
    plain = client.post("/v1/predict", content=content, headers=headers).json()
    raw = zlib.compressobj(wbits=-15)
    for encoding, packed in (
        ("gzip", gzip.compress(content)),
        ("x-gzip", gzip.compress(content)),
        ("deflate", zlib.compress(content)),
        ("deflate", raw.compress(content) + raw.flush()),
        ("identity", content),
    ):
        answer = client.post("/v1/predict", content=packed, headers={**headers, "Content-Encoding": encoding})
        assert answer.json() == plain
    bomb = gzip.compress(bytes(20 * 1024 * 1024))
    for encoding, packed, status in (
        ("br", content, 415),
        ("gzip, gzip", content, 415),
        ("gzip", content, 400),
        ("gzip", gzip.compress(content)[:-9], 400),
        ("gzip", gzip.compress(content) + b"more", 400),
        ("gzip", bomb, 413),
        ("deflate", zlib.compress(content)[:100], 400),
    ):
        answer = client.post("/v1/predict", content=packed, headers={**headers, "Content-Encoding": encoding})
        assert answer.status_code == status, (encoding, answer.text)
    array = npy(np.zeros((3000, 28, 28, 3), np.uint8))
    packed = {"Content-Type": "application/x-npy", "Content-Encoding": "gzip", **token}
    answer = client.post("/v1/predict", content=gzip.compress(array), headers=packed)
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 3000


def test_a_client_that_goes_on_sending_after_its_answer_is_ended(sample_model: Path, tmp_path: Path) -> None:
    """What it sends is dropped, and its connection with it once the time of a request is over."""
    with running(sample_model, tmp_path, "--timeout", "2") as client:
        for more in (b"", b"Connection: close\r\n"):
            head = b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%s\r\n" % more
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 10) as connection:
                connection.sendall(head)
                ended = False
                for _ in range(200):
                    try:
                        connection.sendall(b"4\r\nabcd\r\n")
                    except OSError:
                        ended = True
                        break
                    time.sleep(0.03)
                assert ended
