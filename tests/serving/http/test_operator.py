"""What an operator sees: TLS, connections that are too many, traces in the log, a drift in the metrics."""

import json
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.model.predictor import Predictor
from tests.conftest import Command
from tests.serving.http.test_app import NPY, npy
from tests.serving.server import process_of, running
from xtrain.data.datasets import read_npz

HEALTH = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls(sample_model: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    options = ("--certificate", str(cert), "--key", str(key), "--timeout", "3")
    with process_of(sample_model, tmp_path, *options, tls=context) as (client, _):
        assert client.base_url.scheme == "https"
        assert client.post("/v1/predict", content=npy(np.zeros((2, 28, 28, 3), np.uint8)), headers=NPY).is_success
        large = client.post("/v1/predict", content=bytes(20_000_000), headers={"Content-Type": "image/png"})
        assert large.status_code == 413, "an early answer, through TLS too"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{client.base_url.port}/livez", trust_env=False)
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as silent:  # no handshake
            began = time.monotonic()
            assert silent.recv(100) == b"" and 2 < time.monotonic() - began < 8
    assert f"sample on {client.base_url} (CPU" in (tmp_path / "serve.log").read_text()


def test_a_certificate_that_is_none(
    command: Command, sample_model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    (tmp_path / "no.pem").write_text("none")
    for options in (
        ("--certificate", tmp_path / "no.pem"),
        ("--certificate", tmp_path / "absent.pem"),
        ("--certificate", cert),  # without its key
        ("--certificate", cert, "--key", tmp_path / "no.pem"),
        ("--key", key),
    ):
        result = command("xserve", sample_model, *options)
        assert result.code == 2 and ("in PEM" in result.error or "of no use" in result.error), options


def test_connections_that_are_too_many(sample_model: Path, tmp_path: Path) -> None:
    """Idle ones give way; where none is idle, health and metrics are answered all the same."""
    with running(sample_model, tmp_path, "--max-connections", "8") as client:
        client.close()
        address = ("127.0.0.1", client.base_url.port or 0)

        def ask(connection: socket.socket, path: str) -> bytes:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return connection.recv(100)

        idle = [socket.create_connection(address, 10) for _ in range(8)]
        try:
            for connection in idle:
                assert ask(connection, "/v1/model").startswith(b"HTTP/1.1 200")
            with socket.create_connection(address, 10) as late:
                assert ask(late, "/v1/model").startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
            while idle[0].recv(65536):
                pass  # the rest of its answer, and then its end: it was the longest without a request
        finally:
            for connection in idle:
                connection.close()
        time.sleep(0.3)
        silent = [socket.create_connection(address, 10) for _ in range(20)]  # of which none asks for anything
        try:
            for connection in silent[:10]:
                connection.sendall(b"GET /v1/mod")
            with socket.create_connection(address, 10) as late:
                assert ask(late, "/v1/model").startswith(b"HTTP/1.1 200")
        finally:
            for connection in silent:
                connection.close()
        time.sleep(0.3)
        busy = [socket.create_connection(address, 10) for _ in range(8)]
        try:
            for connection in busy:  # each in the middle of a request
                connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n")
                connection.sendall(b"Content-Length: 10\r\n\r\n12345")
            time.sleep(0.3)
            for path in HEALTH:
                with socket.create_connection(address, 10) as late:
                    assert ask(late, path).startswith(b"HTTP/1.1 200"), path
            with socket.create_connection(address, 10) as late:
                late.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345")
                answer = b"".join(iter(lambda: late.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 503") and b"more than 8 connections" in answer
                assert answer.count(b"HTTP/1.1") == 1
            busy[0].sendall(b"67890GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n")
            both = b""
            while both.count(b"HTTP/1.1") < 2:  # an earlier connection goes on, with what it pipelines too
                both += busy[0].recv(65536)
            assert both.startswith(b"HTTP/1.1 400") and b"HTTP/1.1 200" in both
            many = [socket.create_connection(address, 10) for _ in range(300)]
            time.sleep(0.5)
            ended = 0
            for connection in many:
                connection.settimeout(0.01)
                try:
                    ended += connection.recv(1) == b""
                except TimeoutError:
                    pass
                except ConnectionResetError:
                    ended += 1
                connection.close()
            assert ended >= 30, "beyond the reserve, connections are ended at once"
        finally:
            for connection in busy:
                connection.close()
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_traces_and_drift(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    images = read_npz(sample).splits["test"].images[:100]
    probabilities = Predictor(sample_model, "cpu").predict(images)
    trace = "0af7651916cd43dd8448eb211c80319c"
    with running(sample_model, tmp_path) as client:
        for header, name in ((f"00-{trace}-b7ad6b7169203331-01", "traced"), ("00-zz-1-01", "untraced")):
            headers = {**NPY, "traceparent": header, "X-Request-ID": name}
            assert client.post("/v1/predict", content=npy(images), headers=headers).is_success
        text = client.get("/metrics").text
    counted = dict(re.findall(r'xtrain_predictions_total\{class="([^"]+)",model="sample",version="1"\} (\S+)', text))
    labels = Predictor(sample_model, "cpu").card.classes
    expected = np.bincount(probabilities.argmax(axis=1), minlength=9) * 2
    assert [float(counted[label]) for label in labels] == expected.tolist()
    bins = re.findall(r'xtrain_confidence_bucket\{le="([^"]+)",model="sample",version="1"\} (\S+)', text)
    assert len(bins) == 20 and bins[-1] == ("+Inf", "200.0")
    below = dict(bins)["0.5"]
    assert float(below) == 2 * (probabilities.max(axis=1) < 0.5).sum()
    (total,) = re.findall(r'xtrain_confidence_sum\{model="sample",version="1"\} (\S+)', text)
    assert float(total) == pytest.approx(2 * probabilities.max(axis=1).sum(), rel=1e-4)
    assert 'provider="CPUExecutionProvider"' in text and "process_resident_memory_bytes" in text
    lines = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines() if line.startswith("{")]
    ids = {line["request_id"]: line.get("trace_id") for line in lines}
    assert ids["traced"] == trace and ids["untraced"] is None
