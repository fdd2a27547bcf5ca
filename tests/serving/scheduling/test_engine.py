"""What a server with tight limits answers."""

import asyncio
import io
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.http.app import create_app, load_model
from serving.model.predictor import Predictor
from tests.serving.http.test_app import NPY, error, npy
from tests.serving.server import running
from xtrain.data.datasets import read_npz


def test_a_full_queue_is_429(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    """Many large requests at once: some are answered, the rest are refused as specified, and the server recovers."""
    content = npy(read_npz(sample).splits["train"].images[:800])
    with running(sample_model, tmp_path, "--max-batch", "800", "--max-queue", "800") as client:

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{client.base_url}/v1/predict", content=content, headers=NPY, timeout=60)

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(48)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}, codes
        for answer in answers:
            if answer.status_code == 429:
                error(answer, 429, "queue_full")
                assert int(answer.headers["Retry-After"]) >= 1
            else:
                assert len(answer.json()["predictions"]) == 800
        assert client.post("/v1/predict", content=content, headers=NPY).status_code == 200
        text = client.get("/metrics").text
        assert f'xtrain_rejected_total{{reason="queue_full"}} {float(codes.count(429))}' in text


def test_a_late_answer_is_504(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    """The body has time enough on a busy machine, 2,000 images of one run have not."""
    images = np.resize(read_npz(sample).splits["train"].images[:], (2000, 28, 28, 3))
    with running(sample_model, tmp_path, "--max-batch", "2000", "--timeout", "0.06") as client:
        message = error(client.post("/v1/predict", content=npy(images), headers=NPY), 504, "deadline_passed")
        assert "no answer within the server's timeout" in message
        for _ in range(50):  # the run that nobody waits for any more is still under way at first
            response = client.post("/v1/predict", content=npy(images[:1]), headers=NPY)
            if response.status_code == 200:
                return
            error(response, 504, "deadline_passed")
        raise AssertionError("it never answered again")


def test_bodies_under_way_take_no_more_than_they_may(
    sample_model: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client has sent of a body counts until it is answered or gone; single images are never refused for it."""
    monkeypatch.setenv("XTRAIN_MEMORY_BUDGET", "600000")
    images = read_npz(sample).splits["train"].images
    large, tile = npy(images[:200]), npy(images[:1])  # 470 KB, 2 KB
    packed = io.BytesIO()
    np.savez_compressed(packed, images=np.zeros((200, 28, 28, 3), np.uint8))
    assert len(packed.getvalue()) < 10_000
    with running(sample_model, tmp_path) as client:

        def begin() -> socket.socket:
            """All but the end of the large body, on a connection of its own."""
            connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0), 30)
            head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY['Content-Type']}\r\nConnection: close"
            connection.sendall(f"{head}\r\nContent-Length: {len(large)}\r\n\r\n".encode() + large[:-100])
            reserved(len(large) - 100 - 64 * 1024)
            return connection

        def reserved(count: int) -> None:
            """Wait until the server has so many bytes, for 10 s."""
            for _ in range(100):
                text = client.get("/metrics").text
                if f"\nxtrain_reserved_bytes {float(count)}\n" in text:
                    return
                time.sleep(0.1)
            raise AssertionError(text)

        def ask(content: bytes, path: str = "predict") -> httpx.Response:
            kind = NPY if path == "predict" else {"Content-Type": "application/zip"}
            return client.post(f"/v1/{path}", content=content, headers=kind)

        assert ask(npy(images[:800])).status_code == 200  # more than all, but alone
        assert ask(packed.getvalue(), "score").status_code == 200
        with begin() as connection:
            refused = ask(large)
            assert "600000 bytes" in error(refused, 429, "queue_full") and refused.headers["Retry-After"] == "1"
            error(ask(packed.getvalue(), "score"), 429, "queue_full")
            assert ask(tile).status_code == 200
            connection.sendall(large[-100:])
            assert connection.recv(12) == b"HTTP/1.1 200"
            while connection.recv(65536):
                pass
        reserved(0)
        assert ask(large).status_code == 200
        with begin():
            error(ask(large), 429, "queue_full")
        reserved(0)  # and so it is when a client vanishes
        assert ask(large).status_code == 200


def test_a_fault_of_our_own_is_500_and_tells_no_details(sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(sample_model, "cpu")

    def broken(images: np.ndarray) -> np.ndarray:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(predictor, "predict", broken)
    app = create_app()
    load_model(app, predictor)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            content = npy(np.zeros((1, 28, 28, 3), np.uint8))
            answer = await client.post("/v1/predict", content=content, headers={**NPY, "X-Request-ID": "r7"})
            return answer, await client.get("/metrics")

    answer, metrics = asyncio.run(ask())
    assert "secret" not in error(answer, 500, "internal") and answer.headers["X-Request-ID"] == "r7"
    assert 'xtrain_requests_total{code="500",route="predict"} 1.0' in metrics.text
