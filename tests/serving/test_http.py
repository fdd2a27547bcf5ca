"""A real server process, real tiles, real HTTP."""

import io
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.predictor import Predictor
from tests.serving.server import XSERVE, running
from tests.serving.test_images import bomb, encode
from training.datasets import read_npz

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running(sample_model, tmp_path_factory.mktemp("home")) as client:
        yield client


def error(response: httpx.Response, status: int, code: str) -> str:
    """Check the one shape of errors and return the message."""
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"error"} and set(content["error"]) == {"code", "message", "request_id"}
    assert content["error"]["code"] == code and content["error"]["request_id"]
    return str(content["error"]["message"])


def test_a_tile_gets_the_probabilities_of_its_row(
    client: httpx.Client, sample_model: Path, data_dir: Path, sample: Path
) -> None:
    """Over HTTP from 224x224 and in process from the data set's own row: the same numbers."""
    facts = json.loads((data_dir / "tiles" / "labels.json").read_text())
    rows = read_npz(sample).splits["test"].images
    predictor = Predictor(sample_model)
    for name, row in facts["identical_to_sample_test_row"].items():
        response = client.post("/v1/predict", content=(data_dir / "tiles" / name).read_bytes(), headers=PNG)
        assert response.status_code == 200
        (prediction,) = response.json()["predictions"]
        expected = predictor.predict(rows[row : row + 1])[0]
        # To the last bit: float32 survives the JSON.
        assert (np.array(prediction["probabilities"], np.float32) == expected).all()
        assert prediction["class"] == expected.argmax()
        assert prediction["label"] == predictor.card.classes[prediction["class"]]
        assert prediction["probability"] == max(prediction["probabilities"])


def test_every_format(client: httpx.Client, data_dir: Path) -> None:
    with Image.open(data_dir / "tiles" / "ADI-TCGA-EENSRDNW.png") as image:
        tile = image.convert("RGB")
    for kind in ("png", "jpeg", "webp", "bmp", "tiff"):
        content = encode(tile, kind)
        response = client.post("/v1/predict", content=content, headers={"Content-Type": f"image/{kind}; q=1"})
        assert response.status_code == 200 and response.json()["model"] == "sample"


def test_the_card(client: httpx.Client, sample_model: Path) -> None:
    assert client.get("/v1/model").json() == json.loads(Predictor(sample_model).card.to_json())


def test_health_and_metrics(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200 and client.get("/readyz").status_code == 200

    # BentoML counts requests; one more is one more.
    def counted() -> float:
        lines = client.get("/metrics").text.splitlines()
        wanted = [line for line in lines if line.startswith("bentoml_service_request_total{") and "/v1/model" in line]
        return sum(float(line.rpartition(" ")[2]) for line in wanted)

    before = counted()
    client.get("/v1/model")
    assert counted() == before + 1


def test_a_clients_mistakes(client: httpx.Client, data_dir: Path) -> None:
    tile = (data_dir / "tiles" / "ADI-TCGA-EENSRDNW.png").read_bytes()

    def post(content: bytes, kind: str | None = "image/png") -> httpx.Response:
        return client.post("/v1/predict", content=content, headers={"Content-Type": kind} if kind else {})

    assert "empty" in error(post(b""), 400, "unreadable")
    assert "known format" in error(post(b"garbage"), 400, "unreadable")
    assert "damaged" in error(post(tile[: len(tile) // 2]), 400, "unreadable")
    assert "image/png" in error(post(tile, "text/plain"), 415, "unsupported")
    error(post(tile, None), 415, "unsupported")
    assert "pixels" in error(post(bomb(13_000, 13_000)), 413, "too_large")
    assert "bytes" in error(post(bytes(17 * 1024 * 1024)), 413, "too_large")
    pages = io.BytesIO()
    Image.new("RGB", (28, 28)).save(pages, "TIFF", save_all=True, append_images=[Image.new("RGB", (28, 28))])
    assert "several images" in error(post(pages.getvalue(), "image/tiff"), 415, "unsupported")
    error(client.get("/v1/predict"), 405, "method_not_allowed")
    assert client.get("/v1/nothing").status_code == 404
    # And after all that it still answers.
    assert post(tile).status_code == 200


def test_the_length_is_counted_not_believed(client: httpx.Client) -> None:
    """A chunked body declares no length; reading stops at the limit all the same."""

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1024 * 1024)

    try:
        response = client.post("/v1/predict", content=endless(), headers=PNG)
    except httpx.WriteError:
        return  # the server closed the connection while we were still sending
    error(response, 413, "too_large")


def test_the_request_id_is_the_clients(client: httpx.Client) -> None:
    response = client.post("/v1/predict", content=b"x", headers={**PNG, "X-Request-ID": "abc-123"})
    assert response.json()["error"]["request_id"] == "abc-123"


def test_a_broken_model_never_starts_a_server(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    done = subprocess.run([*XSERVE, "bad.onnx"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_port_in_use(sample_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*XSERVE, str(sample_model), "--port", str(port)], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in done.stderr and "--port" in done.stderr
