"""A client that leaves before its answer costs no further run, and nothing of its request stays."""

import json
import re
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from export.export import export_runs
from export.options import ExportOptions
from tests.serving.http.test_app import NPY, npy
from tests.serving.server import process_of, running

IMAGES = 20_000


def figure(client: httpx.Client, name: str) -> float:
    match = re.search(rf"^xtrain_{name} (\S+)$", client.get("/metrics").text, re.M)
    assert match, name
    return float(match.group(1))


def test_a_client_that_leaves(sample_run: Path, tmp_path: Path) -> None:
    """With a model of eight views, whose answer would take some fifteen seconds."""
    export_runs([sample_run], tmp_path / "m.onnx", ExportOptions(tta="dihedral"))
    body = npy(np.zeros((IMAGES, 28, 28, 3), np.uint8))
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-Request-ID: gone\r\nContent-Type: {NPY['Content-Type']}\r\n"
    with running(tmp_path / "m.onnx", tmp_path, "--max-batch", "8") as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 30) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            for _ in range(500):  # until its images run
                if figure(client, "batch_images_sum") > 0:
                    break
                time.sleep(0.01)
        for _ in range(100):
            if figure(client, "reserved_bytes") == 0:
                break
            time.sleep(0.05)
        ran = figure(client, "batch_images_sum")
        assert 0 < ran < IMAGES, "its remaining images are not run"
        time.sleep(0.5)
        assert figure(client, "batch_images_sum") <= ran + 128 and figure(client, "waiting_images") == 0
        answer = client.post("/v1/predict", content=npy(np.zeros((3, 28, 28, 3), np.uint8)), headers=NPY)
        assert answer.status_code == 200 and len(answer.json()["predictions"]) == 3
        assert 'xtrain_requests_total{code="499",route="predict"} 1.0' in client.get("/metrics").text
    log = (tmp_path / "serve.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"time"')]
    assert [line["status"] for line in lines if line["request_id"] == "gone"] == [499]
    assert "Traceback" not in log


def test_a_server_whose_client_left_stops_at_once(sample_run: Path, tmp_path: Path) -> None:
    """Nothing waits for an answer that nobody gets; nor for clients that keep their connection after an early one."""
    export_runs([sample_run], tmp_path / "m.onnx", ExportOptions(tta="dihedral"))
    body = npy(np.zeros((IMAGES, 28, 28, 3), np.uint8))
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY['Content-Type']}\r\n"
    with process_of(tmp_path / "m.onnx", tmp_path, "--max-batch", "8") as (client, process):
        address = ("127.0.0.1", client.base_url.port or 0)
        with socket.create_connection(address, 30) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.2)
        with socket.create_connection(address, 30) as early:
            early.sendall(
                b"POST /v1/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 999999\r\n\r\nabc"
            )
            assert early.recv(100).startswith(b"HTTP/1.1 404")
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 2  # a worker, a decoder
            client.close()
            began = time.monotonic()
            process.terminate()
            assert process.wait(timeout=30) == 0
            assert time.monotonic() - began < 8
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_worker_ends_with_what_started_it(sample_model: Path, tmp_path: Path) -> None:
    with process_of(sample_model, tmp_path) as (client, process):
        children = psutil.Process(process.pid).children(recursive=True)
        client.close()
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive


def test_keep_alive_goes_on_after_every_kind_of_request(sample_model: Path, tmp_path: Path) -> None:
    """The watcher of one request never takes the next one of its connection, pipelined or not."""
    one = npy(np.zeros((1, 28, 28, 3), np.uint8))
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY['Content-Type']}\r\nContent-Length: {len(one)}"
    request = f"{head}\r\n\r\n".encode() + one
    with running(sample_model, tmp_path) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 30) as connection:
            connection.sendall(request * 20)
            received = b""
            while received.count(b"HTTP/1.1 200") < 20 or not received.endswith(b"]}]}"):
                chunk = connection.recv(65536)
                assert chunk, received[-500:]
                received += chunk
            connection.sendall(request)
            assert connection.recv(12) == b"HTTP/1.1 200"
