"""What signals do to a real server under load, and what it does to bodies that do not come."""

import io
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from tests.serving.http.test_app import NPY, npy
from tests.serving.server import XSERVE, process_of, running
from xtrain.data.datasets import read_npz


def test_sigterm_ends_what_is_in_flight_and_refuses_the_rest(sample_model: Path, tmp_path: Path) -> None:
    large = npy(np.zeros((20_000, 28, 28, 3), np.uint8))
    answers: list[httpx.Response] = []
    with process_of(sample_model, tmp_path) as (client, process):
        base = str(client.base_url)

        def ask() -> None:
            answers.append(httpx.post(f"{base}/v1/predict", content=large, headers=NPY, timeout=60, trust_env=False))

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(200):  # until its images run
            if float(client.get("/metrics").text.partition("xtrain_batch_images_count ")[2].split()[0]) > 3:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert not answers, "the large request was over too soon to show anything"
        with pytest.raises(httpx.TransportError):  # nobody answers a new connection
            httpx.get(f"{base}/readyz", timeout=30, trust_env=False)
        thread.join(timeout=60)
        assert process.wait(timeout=30) == 0
    (answer,) = answers
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 20_000


def told(log: Path, words: str) -> bool:
    """Whether the server says so within half a minute."""
    for _ in range(300):
        if words in log.read_text():
            return True
        time.sleep(0.1)
    return False


def test_sighup_takes_the_file_anew_and_loses_nobody(
    sample_model: Path, sample_run: Path, sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    served, other = folder / "model.onnx", tmp_path / "other.onnx"
    first = folder / "first.onnx"
    shutil.copy(sample_model, first)
    served.symlink_to(first)
    export_runs([sample_run], other, ExportOptions(calibrate=False, tta="dihedral", model_version="2"))
    images = read_npz(sample).splits["test"].images[:4]
    expected = {}
    for path, version in ((sample_model, "1"), (other, "2")):
        expected[Predictor(path, "cpu").digest] = version, Predictor(path, "cpu").predict(images)
    seen, faults, stop = Counter[str](), list[str](), threading.Event()
    with process_of(served, tmp_path) as (client, process):
        base, log = str(client.base_url), tmp_path / "serve.log"

        def ask() -> None:
            with httpx.Client(base_url=base, timeout=30, trust_env=False) as session:
                while not stop.is_set():
                    try:
                        answer = session.post("/v1/predict", content=npy(images), headers=NPY).raise_for_status().json()
                    except httpx.HTTPError as error:
                        faults.append(repr(error))
                        continue
                    version, probabilities = expected[answer["sha256"]]
                    seen[version] += 1
                    got = [item["probabilities"] for item in answer["predictions"]]
                    np.testing.assert_allclose(np.array(got), probabilities, atol=1e-5)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            process.send_signal(signal.SIGHUP)
            assert told(log, "no file has changed"), log.read_text()
            first.write_bytes(sample_model.read_bytes()[:10_000])
            process.send_signal(signal.SIGHUP)
            assert told(log, "not loaded"), log.read_text()
            assert "the model before goes on answering" in log.read_text()
            assert client.get("/v1/model").json()["version"] == "1"
            shutil.copy(other, folder / "second.onnx")
            served.unlink()
            served.symlink_to(folder / "second.onnx")
            process.send_signal(signal.SIGHUP)
            assert told(log, "version 2 from now on"), log.read_text()
            before = seen["2"]
            for _ in range(100):
                if seen["2"] > before + 10:
                    break
                time.sleep(0.1)
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=30)
        assert client.get("/v1/model").json()["version"] == "2"
        loaded = client.get("/v1/models").json()
        assert loaded["default"] == "other" and [one["version"] for one in loaded["models"]] == ["2"]
    assert not faults and seen["1"] > 10 and seen["2"] > 10, (faults, seen)
    assert log.read_text().count("Service xtrain initialized") == 1  # one process from the beginning to the end


def test_a_drain_takes_the_server_out_before_it_ends(sample_model: Path, sample: Path, tmp_path: Path) -> None:
    images = read_npz(sample).splits["test"].images[:1]
    with process_of(sample_model, tmp_path, "--drain", "3") as (client, process):
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        answers = Counter[int]()
        while time.monotonic() < began + 2:
            with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as fresh:
                answers[fresh.get("/readyz").status_code] += 1
                answers[fresh.get("/v2/health/ready").status_code] += 1
                assert fresh.get("/livez").status_code == 200
                assert fresh.post("/v1/predict", content=npy(images), headers=NPY).status_code == 200
            if answers[503] > 10:
                break
        assert answers[503] > 10, answers
        assert process.wait(timeout=30) == 0
        assert 2.5 < time.monotonic() - began < 10


def test_a_second_sigterm_does_not_wait(sample_model: Path, tmp_path: Path) -> None:
    with process_of(sample_model, tmp_path, "--drain", "100") as (client, process):
        process.send_signal(signal.SIGTERM)
        for _ in range(100):
            if client.get("/readyz").status_code == 503:
                break
            time.sleep(0.1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0 and time.monotonic() - began < 10


def test_a_body_that_does_not_come_is_given_up(sample_model: Path, tmp_path: Path) -> None:
    with running(sample_model, tmp_path, "--timeout", "1") as client:
        host, port = client.base_url.host, client.base_url.port
        assert port
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
        with socket.create_connection((host, port), 10) as slow:
            slow.sendall(head)
            began = time.monotonic()
            answer = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server closes
            assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()
            assert 0.8 < time.monotonic() - began < 5 and b"body_late" in answer
        assert client.get("/readyz").status_code == 200


def test_the_address_is_told_once_it_listens(sample_model: Path, tmp_path: Path) -> None:
    """And not before: a port that is taken, or a model that does not load, leaves an error alone."""
    with process_of(sample_model, tmp_path) as (client, _):
        told = f"sample on {client.base_url} (CPU; Ctrl-C stops it)"
        assert (tmp_path / "serve.log").read_text().count(told) == 1
        port = str(client.base_url).rpartition(":")[2].strip("/")
        done = subprocess.run(
            [*XSERVE, str(sample_model), "--port", port], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
    assert done.returncode == 1 and "choose another --port" in done.stderr and "on http" not in done.stderr


def test_common_addresses_of_descriptions_answer(sample_model: Path, tmp_path: Path) -> None:
    with running(sample_model, tmp_path) as client:
        assert client.get("/openapi.json").json() == client.get("/v1/openapi.json").json()
        assert "SwaggerUIBundle" in client.get("/docs").text
        assert client.post("/openapi.json").status_code == 405


@pytest.mark.parametrize("kind", ["image/jpg", "image/jpeg"])
def test_jpeg_under_both_names(sample_model: Path, data_dir: Path, tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    with Image.open(data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png") as tile:
        tile.convert("RGB").save(buffer, "JPEG")
    with running(sample_model, tmp_path) as client:
        answer = client.post("/v1/predict", content=buffer.getvalue(), headers={"Content-Type": kind})
    assert answer.status_code == 200
