"""A real server process, real tiles, real HTTP."""

import base64
import io
import json
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from export.export import export_runs
from export.options import ExportOptions
from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from tests.conftest import Command
from tests.serving.server import XSERVE, running
from tests.xtrain.test_images import bomb, encode
from xtrain.data.datasets import read_npz
from xtrain.images import decode

PNG, NPY = {"Content-Type": "image/png"}, {"Content-Type": "application/x-npy"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
EMPTY_FORM = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n'


@pytest.fixture(scope="module")
def client(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running(sample_model, tmp_path_factory.mktemp("home")) as client:
        yield client


def error(response: httpx.Response, status: int, code: str) -> str:
    """Check the shape of errors, that of the Open Inference Protocol below /v2, and return the message."""
    assert response.status_code == status, response.text[:1000]
    content = response.json()
    if response.request.url.path.startswith("/v2"):
        assert set(content) == {"error"} and content["error"] and response.headers["x-request-id"]
        return str(content["error"])
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
    answer = client.get("/v1/model").json()
    assert answer.pop("sha256") == sample_model.with_name("sample.onnx.sha256").read_text().split()[0]
    expected = json.loads(Predictor(sample_model).card.to_json())
    for part, content in (("references", "images"), ("training_rows", "content")):
        assert expected[part].pop(content), "pixels and digests are in the file, not in the response"
    assert answer == expected


def test_a_form_of_many_with_one_that_is_bad(client: httpx.Client, sample_model: Path, data_dir: Path) -> None:
    tiles = sorted((data_dir / "tiles").glob("*.png"))[:12]
    files = [("image", (path.name, path.read_bytes(), "image/png")) for path in tiles]
    files.insert(5, ("image", ("broken.png", files[0][1][1][:5000], "image/png")))
    response = client.post("/v1/predict", files=files)
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("sample", "1") and len(answer["sha256"]) == 64
    broken = answer["predictions"].pop(5)
    assert broken["name"] == "broken.png" and set(broken) == {"name", "error"}
    assert broken["error"]["code"] == "unreadable" and "damaged" in broken["error"]["message"]
    assert [prediction["name"] for prediction in answer["predictions"]] == [path.name for path in tiles]
    predictor = Predictor(sample_model)
    expected = predictor.predict(np.stack([decode(path.read_bytes(), (28, 28, 3)) for path in tiles]))
    got = np.array([prediction["probabilities"] for prediction in answer["predictions"]])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    # A form with one file is that image, with its status.
    assert "damaged" in error(client.post("/v1/predict", files=files[5:6]), 400, "unreadable")
    assert "no file" in error(client.post("/v1/predict", content=EMPTY_FORM, headers=FORM), 400, "unreadable")


def npy(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


def test_an_array_gets_the_predictors_answers(client: httpx.Client, sample_model: Path, sample: Path) -> None:
    images = read_npz(sample).splits["test"].images[:]
    response = client.post("/v1/predict", content=npy(images), headers=NPY, params={"top": 3})
    predictions = response.json()["predictions"]
    expected = Predictor(sample_model).predict(images)
    np.testing.assert_allclose([item["probabilities"] for item in predictions], expected, atol=1e-6)
    for item, row in zip(predictions, expected, strict=True):
        assert [entry["class"] for entry in item["top"]] == np.argsort(-row, kind="stable")[:3].tolist()
        assert item["class"] == item["top"][0]["class"] and item["probability"] == item["top"][0]["probability"]


def test_arrays_that_are_wrong(client: httpx.Client) -> None:
    def post(content: bytes, **params: object) -> httpx.Response:
        return client.post("/v1/predict", content=content, headers=NPY, params=params)  # type: ignore[arg-type]

    right = np.zeros((2, 28, 28, 3), np.uint8)
    for wrong in (right.astype(np.float32), right[..., 0], right.transpose(0, 3, 1, 2), right[0], right[:0]):
        message = error(post(npy(wrong)), 422, "wrong_input")
        assert "the model takes uint8 (N, 28, 28, 3)" in message or "no image" in message
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    lying = npy(right).replace(b"(2, 28", b"(9, 28")
    for content in (b"nonsense", npy(right)[:-100], pickled.getvalue(), lying, b"\x93NUMPY\x01\x00\xff\xff"):
        error(post(content), 400, "unreadable")
    for top in ("0", "10", "x", "-1", "9" * 400, "0" * 8 + "1" + "9" * 5000, "00000000199999", "\u0663"):
        error(post(npy(right), top=top), 422, "wrong_input")
    error(post(npy(right), explain="maybe"), 422, "wrong_input")
    assert "export it with --explain" in error(post(npy(right), explain="true"), 422, "wrong_input")


def test_the_csv_is_that_of_the_command(
    client: httpx.Client, command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    assert command("xscore", sample_model, sample, "-o", tmp_path / "out.csv").code == 0
    expected = (tmp_path / "out.csv").read_text()
    images = read_npz(sample).splits["test"].images[:]
    packed = io.BytesIO()
    np.savez_compressed(packed, images=images)
    for content, kind in (
        (npy(images), "application/x-npy"),
        (packed.getvalue(), "application/zip"),
        (sample.read_bytes(), "application/octet-stream"),
    ):
        response = client.post("/v1/score", content=content, headers={"Content-Type": kind})
        assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/csv")
        assert response.text == expected


def test_scores_that_are_refused(client: httpx.Client) -> None:
    def post(content: bytes, kind: str = "application/zip") -> httpx.Response:
        return client.post("/v1/score", content=content, headers={"Content-Type": kind})

    def packed(**arrays: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    zeros = np.zeros((30_000, 28, 28, 3), np.uint8)  # 70 MB in 70 KB
    assert "unpacks to" in error(post(packed(images=zeros)), 413, "too_large")
    assert "name the array of images" in error(post(packed(a=zeros[:1], b=zeros[:1])), 422, "wrong_input")
    error(post(packed(images=zeros[:1])[:-200]), 400, "unreadable")
    error(post(packed(images=zeros[:1].astype(int))), 422, "wrong_input")
    error(post(b"ID,CLASS", "text/csv"), 415, "unsupported")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):  # cannot be unpacked up to a limit
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("images.npy", npy(zeros[:1]))
        assert "numpy.savez" in error(post(buffer.getvalue()), 415, "unsupported")
    lie = packed(images=zeros).replace((zeros.nbytes + 128).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    error(post(lie), 400, "unreadable")


def test_paths_and_figures_are_bounded(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200 and client.get("/readyz").status_code == 200

    def counted(route: str, code: int) -> float:
        (line,) = [
            line
            for line in client.get("/metrics").text.splitlines()
            if line.startswith(f'xtrain_requests_total{{code="{code}",route="{route}"}}')
        ] or [" 0"]
        return float(line.rpartition(" ")[2])

    before = counted("show_card", 200)
    client.get("/v1/model")
    assert counted("show_card", 200) == before + 1
    for index in range(300):
        error(client.get(f"/v1/nothing-{index}"), 404, "not_found")
        assert client.get(f"/nothing-{index}").status_code == 404
    text = client.get("/metrics").text
    assert "nothing" not in text and len(text) < 50_000
    assert counted("unknown", 404) >= 300
    for name in (
        "queue_seconds",
        "decode_seconds",
        "run_seconds",
        "batch_images",
        "rejected",
        "model",
        "waiting_images",
        "reserved_bytes",
    ):
        assert f"xtrain_{name}" in text, name


def test_many_clients_get_their_own_answers(client: httpx.Client, sample_model: Path, sample: Path) -> None:
    """48 at a time on one connection each; whatever was batched with whatever, each gets its row."""
    images = read_npz(sample).splits["test"].images[:240]
    expected = Predictor(sample_model).predict(images)
    contents = [encode(Image.fromarray(image), "png") for image in images]

    def ask(index: int) -> tuple[int, list[float]]:
        response = httpx.post(f"{client.base_url}/v1/predict", content=contents[index], headers=PNG, timeout=30)
        assert response.status_code == 200, response.text
        return index, response.json()["predictions"][0]["probabilities"]

    with ThreadPoolExecutor(48) as pool:
        for index, probabilities in pool.map(ask, range(240)):
            np.testing.assert_allclose(probabilities, expected[index], atol=1e-6)


def test_an_explanation_is_a_picture(sample_run: Path, data_dir: Path, sample: Path, tmp_path: Path) -> None:
    export_runs([sample_run], tmp_path / "m.onnx", ExportOptions(explain=True))
    tile = data_dir / "tiles" / "NORM-TCGA-CKFPHLVW.png"
    predictor = Predictor(tmp_path / "m.onnx")
    _, (heatmap,) = predictor.predict_and_explain(decode(tile.read_bytes(), (28, 28, 3))[None])
    with running(tmp_path / "m.onnx", tmp_path) as client:
        response = client.post("/v1/predict?explain=true&top=2", content=tile.read_bytes(), headers=PNG)
        (prediction,) = response.json()["predictions"]
        with Image.open(io.BytesIO(base64.b64decode(prediction["heatmap"]))) as got, Image.open(tile) as shown:
            assert got.format == "PNG"
            expected = overlay(shown, heatmap)
            np.testing.assert_allclose(np.asarray(got, int), np.asarray(expected, int), atol=2)
        assert len(prediction["top"]) == 2
        rows = read_npz(sample).splits["test"].images[:3]
        many = client.post("/v1/predict?explain=1", content=npy(rows), headers=NPY).json()["predictions"]
        for item in many:
            with Image.open(io.BytesIO(base64.b64decode(item["heatmap"]))) as got:
                assert got.size == (28, 28)


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
