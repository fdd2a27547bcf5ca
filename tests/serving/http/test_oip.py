"""The Open Inference Protocol with its own reference client, and by hand where that client would not go."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from tests.serving.http.test_app import error
from tests.serving.server import running
from xtrain.data.datasets import read_npz


@pytest.fixture(scope="module")
def explaining(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oip") / "tissue.onnx"
    export_runs([sample_run], path, ExportOptions(explain=True, model_version="7"))
    return path


@pytest.fixture(scope="module")
def client(explaining: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running(explaining, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture
def server(client: httpx.Client) -> Iterator[Any]:
    server = triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")
    yield server
    server.close()


@pytest.fixture
def images(sample: Path) -> np.ndarray:
    return read_npz(sample).splits["test"].images[:70]


def test_health_and_metadata(server: Any) -> None:
    assert server.is_server_live() and server.is_server_ready() and server.is_model_ready("tissue")
    assert server.is_model_ready("tissue", "7") and not server.is_model_ready("other")
    assert server.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "statistics",
    ]
    facts = server.get_model_metadata("tissue")
    assert facts["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 3]}]
    assert [item["name"] for item in facts["outputs"]] == ["probabilities", "heatmap"] and facts["versions"] == ["7"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(server: Any, explaining: Path, images: np.ndarray, binary_in: bool, binary_out: bool) -> None:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary_in)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "heatmap")]
    answer = server.infer("tissue", [tensor], outputs=wanted, request_id="r1")
    probabilities, heatmaps = Predictor(explaining).predict_and_explain(images)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), probabilities, atol=1e-6)
    np.testing.assert_allclose(answer.as_numpy("heatmap")[:, 0], heatmaps, atol=1e-4)
    assert answer.get_response()["id"] == "r1" and answer.get_response()["model_version"] == "7"
    plain = server.infer("tissue", [tensor], model_version="7")  # without a word, all outputs
    assert plain.as_numpy("probabilities").shape == (70, 9) and plain.as_numpy("heatmap").shape == (70, 1, 28, 28)


def test_the_clients_errors_are_readable(server: Any, images: np.ndarray) -> None:
    tensor = triton.InferInput("images", [1, 28, 28, 3], "UINT8")
    tensor.set_data_from_numpy(images[:1])
    with pytest.raises(triton.InferenceServerException) as refused:
        server.infer("other", [tensor])
    assert str(refused.value) == "[404] this server has tissue version 7; it has not loaded what was asked for"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_packed_request(server: Any, explaining: Path, images: np.ndarray, algorithm: str) -> None:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    packing = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    answer = server.infer("tissue", [tensor], **packing)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), Predictor(explaining).predict(images), atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(server: Any, explaining: Path, images: np.ndarray, binary: bool) -> None:
    """Triton's extension: the best classes as probability:index:name."""
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    answer = server.infer("tissue", [tensor], outputs=[wanted]).as_numpy("probabilities")
    predictor = Predictor(explaining)
    probabilities = predictor.predict(images)
    assert answer.shape == (70, 3)
    for row, texts in enumerate(answer):
        words = [(text.decode() if isinstance(text, bytes) else text).split(":", 2) for text in texts]
        best = np.argsort(-probabilities[row], kind="stable")[:3]
        assert [int(index) for _, index, _ in words] == best.tolist()
        assert [name for _, _, name in words] == [predictor.card.classes[index] for index in best]
        np.testing.assert_allclose([float(one) for one, _, _ in words], probabilities[row, best], atol=1e-5)


def test_configuration_and_statistics(server: Any, images: np.ndarray) -> None:
    config = server.get_model_config("tissue")
    assert config["max_batch_size"] == 64 and config["input"][0] == {
        "name": "images",
        "data_type": "TYPE_UINT8",
        "dims": [28, 28, 3],
    }
    before = server.get_inference_statistics("tissue", "7")["model_stats"][0]
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    server.infer("tissue", [tensor])
    after = server.get_inference_statistics("tissue")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 70
    assert after["execution_count"] - before["execution_count"] == 2, "64 and 6"
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["last_inference"] > 1.7e12
    assert sum(size["compute_infer"]["count"] for size in after["batch_stats"]) == after["execution_count"]


RIGHT: dict[str, Any] = {"name": "images", "shape": [1, 28, 28, 3], "datatype": "UINT8", "data": [0] * 2352}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"name": "x"}, 422, "wrong_input"),
        ({"datatype": "FP32"}, 422, "wrong_input"),
        ({"shape": [1, 28, 28]}, 422, "wrong_input"),
        ({"shape": [1, 3, 28, 28]}, 422, "wrong_input"),
        ({"shape": [-1, 28, 28, 3]}, 422, "wrong_input"),
        ({"shape": "all"}, 422, "wrong_input"),
        ({"shape": [2**30] * 9}, 422, "wrong_input"),
        ({"shape": [1] * 70, "data": [1]}, 422, "wrong_input"),
        ({"shape": [2**31 - 1] * 2000}, 422, "wrong_input"),
        ({"shape": [2**31 - 1] * 7}, 422, "wrong_input"),
        ({"shape": [0] * 4, "data": []}, 422, "wrong_input"),
        ({"shape": [2352], "data": ["a" * 10_000] + [""] * 2351}, 422, "wrong_input"),
        ({"shape": [0, 28, 28, 3], "data": []}, 422, "wrong_input"),
        ({"data": [256] * 2352}, 422, "wrong_input"),
        ({"data": [-1] * 2352}, 422, "wrong_input"),
        ({"data": [0.5] * 2352}, 422, "wrong_input"),
        ({"data": [[1], [1, 2]]}, 422, "wrong_input"),
        ({"data": "text"}, 422, "wrong_input"),
        ({"data": None}, 422, "wrong_input"),
        ({"data": [True] * 2352}, 422, "wrong_input"),
        ({"parameters": {"binary_data_size": 5}}, 400, "unreadable"),
        ({"parameters": {"binary_data_size": "many"}}, 400, "unreadable"),
    ],
)
def test_bad_tensors(client: httpx.Client, change: dict[str, Any], status: int, code: str) -> None:
    error(client.post("/v2/models/tissue/infer", json={"inputs": [{**RIGHT, **change}]}), status, code)


def test_bad_requests(client: httpx.Client) -> None:
    def post(content: bytes, **headers: str) -> httpx.Response:
        return client.post("/v2/models/tissue/infer", content=content, headers=headers)

    right = {"inputs": [RIGHT]}
    assert post(json.dumps(right).encode()).status_code == 200
    for content in (b"{", b"[" * 100_000, b"\xff\xfe", b'"text"'):
        error(post(content), 400, "unreadable")
    for wrong in (
        {},
        {"inputs": []},
        {"inputs": [RIGHT, RIGHT]},
        {"inputs": "all"},
        {**right, "outputs": [{"name": "other"}]},
        {**right, "outputs": ["probabilities"]},
        {**right, "outputs": [{"name": "probabilities"}, {"name": "probabilities"}]},
        {**right, "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        {**right, "outputs": [{"name": "probabilities", "parameters": {"classification": "3"}}]},
        {**right, "outputs": [{"name": "probabilities", "parameters": [3]}]},
        {**right, "outputs": [{"name": "heatmap", "parameters": {"classification": 3}}]},
    ):
        error(post(json.dumps(wrong).encode()), 422, "wrong_input")
    for length in ("x", "-1", "99999999", "9" * 50):
        error(post(json.dumps(right).encode(), **{"Inference-Header-Content-Length": length}), 400, "unreadable")
    error(client.get("/v2/models/tissue/infer"), 405, "method_not_allowed")
    error(client.get("/v2/models/other"), 404, "not_found")
    error(client.get("/v2/models/tissue/versions/8/ready"), 404, "not_found")
    error(client.get("/v2/nothing"), 404, "not_found")
