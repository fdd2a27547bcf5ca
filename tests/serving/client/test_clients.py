"""Both clients against a real server, and against one that is busy, breaks off, or is another kind of server."""

import asyncio
import http.server
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import xtrain
from serving.client import Answer, AsyncClient, Client, ServerError
from serving.client.groups import GROUP_IMAGES
from serving.model.predictor import Predictor
from tests.serving.server import running
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError, DataError

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def server(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(sample_model, tmp_path_factory.mktemp("server")) as client:
        yield str(client.base_url)


def waiting(url: str, call: str, *arguments: Any, **options: Any) -> Any:
    with Client(url) as client:
        return getattr(client, call)(*arguments, **options)


def asynchronous(url: str, call: str, *arguments: Any, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, call)(*arguments, **options)

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [waiting, asynchronous])


@both
def test_many_files_in_few_requests_and_their_own_order(
    ask: Ask, server: str, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    """Broken and absent ones among them; the server sees a request for each group, not for each file."""
    images = read_npz(sample).splits["test"].images[: 3 * GROUP_IMAGES]
    files = [tmp_path / f"{index}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    files[5].write_bytes(b"no image")
    files[20].unlink()

    def requests() -> float:
        text = httpx.get(f"{server}/metrics").text
        counts = [line for line in text.splitlines() if line.startswith("xtrain_requests_total") and "predict" in line]
        return sum(float(line.split()[-1]) for line in counts)

    before, told = requests(), list[int]()
    answers: list[Answer] = ask(server, "predict", files, progress=told.append)
    assert requests() - before <= 5 and sum(told) == len(files)
    assert [answer.name for answer in answers] == [str(file) for file in files]
    assert "no image" in str(answers[5].error) and "No such file" in str(answers[20].error)
    predictor = Predictor(sample_model, "cpu")
    expected = predictor.predict(images)
    for index, answer in enumerate(answers):
        if index not in (5, 20):
            np.testing.assert_allclose(answer.probabilities, expected[index], atol=1e-6)
            assert answer.index == expected[index].argmax() and answer.probability == max(answer.probabilities)
            assert answer.label == predictor.card.classes[answer.index]


@both
def test_arrays_pictures_bytes_and_one_alone(ask: Ask, server: str, sample_model: Path, sample: Path) -> None:
    images = read_npz(sample).splits["test"].images[:300]
    expected = Predictor(sample_model, "cpu").predict(images)
    answers = ask(server, "predict", images)
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, atol=1e-6)
    content = io.BytesIO()
    Image.fromarray(images[0]).save(content, "PNG")
    for alone in (Image.fromarray(images[0]), content.getvalue()):
        (answer,) = ask(server, "predict", alone)
        np.testing.assert_allclose(answer.probabilities, expected[0], atol=1e-6)
    assert ask(server, "predict", []) == []


@both
def test_cards_models_and_scores(ask: Ask, server: str, sample: Path, tmp_path: Path) -> None:
    assert ask(server, "card")["name"] == "sample" and ask(server, "models")["default"] == "sample"
    np.save(tmp_path / "images.npy", read_npz(sample).splits["test"].images[:3])
    assert ask(server, "score", tmp_path / "images.npy").splitlines()[0] == "ID,CLASS"
    with pytest.raises(ServerError, match="404") as refused:
        ask(server, "card", "absent")
    assert refused.value.status == 404
    with pytest.raises(ServerError, match="no heatmap"):
        ask(server, "predict", [b"x"], explain=True)
    with pytest.raises(ServerError, match="422"):
        ask(server, "predict", np.zeros((2, 5, 5, 3), np.uint8))


Response = tuple[int, dict[str, str], Any]  # status, headers, and a body as bytes or as what becomes JSON


@dataclass(frozen=True)
class Request:
    """What a scripted server was asked."""

    moment: float
    token: str
    body: bytes

    @property
    def images(self) -> int:
        return self.body.count(b'name="image"')


@contextmanager
def scripted(respond: Callable[[Request], Response]) -> Iterator[tuple[str, list[Request]]]:
    """Serve what a function says to each request; yields the address, and the requests as they come."""
    requests: list[Request] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(Request(time.monotonic(), self.headers.get("Authorization", ""), body))
            status, headers, answer = respond(requests[-1])
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = "Content-Length" in headers

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*responses: Response) -> Callable[[Request], Response]:
    """One response after another, the last one for ever."""
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def at_most(images: int, status: int) -> Callable[[Request], Response]:
    """The same class for every image; the status for more images in a request, and for one that says "too much"."""
    one = {"class": 0, "label": "a", "probability": 1.0, "probabilities": [1.0]}

    def respond(request: Request) -> Response:
        if request.images > images or b"too much" in request.body:
            return status, {}, {"error": {"message": "too much"}}
        return 200, {}, {"sha256": "0", "predictions": [one] * request.images}

    return respond


BUSY = {"error": {"message": "the queue is full"}}


@both
def test_a_busy_server_is_asked_when_it_said(ask: Ask) -> None:
    responses = in_turn((429, {"Retry-After": "1"}, BUSY), (503, {}, BUSY), (200, {}, {"default": "m"}))
    with scripted(responses) as (url, requests):
        assert ask(url, "models") == {"default": "m"}
    first, second = np.diff([request.moment for request in requests])
    assert 0.95 <= first < 2 and 0.4 <= second < 2


@both
def test_it_gives_up_in_the_end(ask: Ask) -> None:
    with scripted(in_turn((429, {"Retry-After": "0"}, BUSY))) as (url, requests):
        with pytest.raises(ServerError, match="429 the queue is full") as refused:
            ask(url, "models")
    assert len(requests) == 5 and refused.value.status == 429


@both
def test_a_connection_that_breaks_is_tried_again(ask: Ask) -> None:
    """Once the server has answered; who never did is not waited for."""
    short = (200, {"Content-Length": "100"}, {"default": "m"})
    responses = in_turn((429, {"Retry-After": "0"}, BUSY), short, (200, {}, {"default": "m"}))
    with scripted(responses) as (url, requests):
        assert ask(url, "models") == {"default": "m"}
    assert len(requests) == 3
    began = time.monotonic()
    with pytest.raises(ServerError, match="no answer"):
        ask(url, "models")
    assert time.monotonic() - began < 2


@both
@pytest.mark.parametrize("body", [b"<html>", [1], {"predictions": []}, {}])
def test_another_kind_of_server(ask: Ask, body: Any) -> None:
    with scripted(in_turn((200, {}, body))) as (url, _), pytest.raises(ServerError, match="not the answer of xserve"):
        ask(url, "predict", [b"x"])


@pytest.mark.parametrize("url", ["", "127.0.0.1:3000", "ftp://127.0.0.1", "http://", "http://a b", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ServerError):
        waiting(url, "models")


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("option", "value"), [("retries", -1), ("timeout", 0), ("timeout", -1.0), ("timeout", float("nan"))]
)
def test_numbers_that_no_client_can_use(client: Callable[..., Any], option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value}; it must be"):
        client("http://127.0.0.1:1", **{option: value})


def test_no_retries_are_one_request() -> None:
    with scripted(in_turn((429, {"Retry-After": "0"}, BUSY))) as (url, requests), Client(url, retries=0) as client:
        with pytest.raises(ServerError, match="429"):
            client.models()
    assert len(requests) == 1


@both
@pytest.mark.parametrize("name", ["absent.npz", ".", "a\0b"])
def test_a_file_to_score_that_cannot_be_read(ask: Ask, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be read .+; name an .npz or .npy"):
        ask("http://127.0.0.1:1", "score", f"{tmp_path}/{name}")


def test_they_are_part_of_the_api() -> None:
    assert xtrain.Client is Client and xtrain.AsyncClient is AsyncClient and xtrain.ServerError is ServerError


@pytest.mark.parametrize("status", [413, 415, 504])
def test_a_group_that_is_too_much_is_sent_one_by_one_with_the_token(status: int) -> None:
    with scripted(at_most(1, status)) as (url, requests), Client(url, token="secret") as client:
        answers = client.predict([b"a", b"b", b"c"])
        assert [answer.label for answer in answers] == ["a"] * 3 and [request.images for request in requests] == [
            3,
            1,
            1,
            1,
        ]
        assert {request.token for request in requests} == {"Bearer secret"}
        if status != 504:
            (answer,) = client.predict([b"too much"])
            assert answer.error == "too much" and answer.label is None
        else:
            with pytest.raises(ServerError, match="504 too much"):
                client.predict([b"too much"])


def test_a_group_has_so_many_bytes() -> None:
    with scripted(at_most(100, 413)) as (url, requests), Client(url) as client:
        client.predict([bytes(3 * 2**20)] * 3 + [b"x"] * 20)
    assert [request.images for request in requests] in ([1, 1, 14, 7], [1, 1, 16, 5])


def test_leaving_a_stream_ends_its_requests(server: str, sample: Path) -> None:
    images = read_npz(sample).splits["test"].images[:300]

    async def ask() -> int:
        async with AsyncClient(server) as client:
            stream = client.stream([Image.fromarray(image) for image in images])
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]
            return len(asyncio.all_tasks())

    assert asyncio.run(ask()) == 1


def test_names_in_no_encoding_and_pictures_that_lie_on_their_side(server: str, tmp_path: Path, sample: Path) -> None:
    image = Image.fromarray(read_npz(sample).splits["test"].images[0]).resize((40, 28))
    exif = Image.Exif()
    exif[274] = 6
    name = tmp_path / os.fsdecode(b"M\xfcller.jpg")
    image.save(name, exif=exif)
    with Client(server) as client, Image.open(name) as turned:
        by_name, by_picture, cmyk = client.predict([name, turned, image.convert("CMYK")])
    assert by_name.label and by_name.name == str(name) and by_picture.name == "1" and cmyk.error is None
    np.testing.assert_allclose(by_picture.probabilities, by_name.probabilities, atol=1e-6)


def test_what_goes_to_this_machine_goes_through_no_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert waiting(server, "models")["default"] == "sample"
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "foo://x")
    with pytest.raises(ServerError, match="proxy"):
        waiting("http://192.0.2.1", "models")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(ServerError, match="SSL_CERT_FILE"):
        waiting("https://127.0.0.1:1", "models")
