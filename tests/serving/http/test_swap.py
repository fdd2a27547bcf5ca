"""Another model while requests come in: nothing is lost, nothing is answered by the wrong one."""

import json
import shutil
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from serving.model.repository import ModelRepository
from tests.serving.http.test_app import NPY, error, npy
from tests.serving.server import running
from xtrain.data.datasets import read_npz
from xtrain.errors import ModelFileError

ADMIN = {"Authorization": "Bearer root"}


@pytest.fixture(scope="module")
def models(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shelf")
    export_runs([sample_run], folder / "one.onnx", ExportOptions(calibrate=False))
    export_runs([sample_run], folder / "two.onnx", ExportOptions(calibrate=False, tta="dihedral"))
    return [folder / "one.onnx", folder / "two.onnx"]


def test_a_swap_under_load(models: list[Path], sample: Path, tmp_path: Path) -> None:
    (tmp_path / "admins").write_text("root\n")
    images = read_npz(sample).splits["test"].images[:100]
    predictors = [Predictor(path, "cpu") for path in models]
    expected = {predictor.digest: predictor.predict(images) for predictor in predictors}
    assert np.abs(expected[predictors[0].digest] - expected[predictors[1].digest]).max() > 0.01
    stop, faults, seen = threading.Event(), [], []

    def client(base: str, index: int) -> None:
        with httpx.Client(base_url=base, timeout=30, trust_env=False) as session:
            while not stop.is_set():
                response = session.post("/v1/predict", content=npy(images[index : index + 5]), headers=NPY)
                if response.status_code != 200:
                    faults.append(response.text)
                    return
                answer = response.json()
                got = np.array([item["probabilities"] for item in answer["predictions"]])
                if not np.allclose(got, expected[answer["sha256"]][index : index + 5], atol=1e-5):
                    faults.append("the answer of another model")
                seen.append(answer["sha256"])

    with running(models[0], tmp_path, "--admin-tokens", str(tmp_path / "admins")) as server:
        threads = [threading.Thread(target=client, args=(str(server.base_url), index * 10)) for index in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(8):
            path = models[(turn + 1) % 2]
            given = path.name if turn % 4 < 2 else str(path)
            answer = server.post("/v1/model", json={"path": given}, headers=ADMIN)
            assert answer.status_code == 200 and answer.json()["sha256"] == predictors[(turn + 1) % 2].digest
            assert server.get("/v1/model").json()["sha256"] == answer.json()["sha256"]
            assert server.get("/readyz").status_code == 200
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        text = server.get("/metrics").text
    assert not faults and set(seen) == set(expected)
    assert text.count("xtrain_model{") == 1


def test_what_may_not_be_swapped_in(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "admins").write_text("root\n")
    (tmp_path / "tokens").write_text("user\n")
    folder = models[0].parent
    shutil.copy(models[0], tmp_path / "elsewhere.onnx")
    (folder / "link.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    (folder / "broken.onnx").write_bytes(models[0].read_bytes()[:1000])
    options = ("--admin-tokens", str(tmp_path / "admins"), "--tokens", str(tmp_path / "tokens"))
    with running(models[0], tmp_path, *options) as server:

        def post(content: object, **headers: str) -> httpx.Response:
            return server.post("/v1/model", content=json.dumps(content).encode(), headers={**ADMIN, **headers})

        before = server.get("/v1/model", headers=ADMIN).json()["sha256"]
        error(post({"path": "two.onnx"}, Authorization="Bearer user"), 401, "unauthorized")
        for path in (str(tmp_path / "elsewhere.onnx"), "../elsewhere.onnx", "link.onnx", "/etc/passwd", "\0"):
            error(post({"path": path}), 422, "wrong_input")
        for path in ("broken.onnx", "absent.onnx", ".", "", 7, None):
            error(post({"path": path}), 422, "wrong_input")
        surrogate = server.post("/v1/model", content=rb'{"path": "\udc80.onnx"}', headers=ADMIN)
        error(surrogate, 400, "unreadable")
        for content in ([], "two.onnx", {}):
            error(post(content), 400, "unreadable")
        error(post({"path": "x" * 5000}), 413, "too_large")
        assert server.get("/v1/model", headers={"Authorization": "Bearer user"}).json()["sha256"] == before


def test_nobody_swaps_without_admins(models: list[Path], tmp_path: Path) -> None:
    with running(models[0], tmp_path) as server:
        error(server.post("/v1/model", json={"path": "two.onnx"}), 401, "unauthorized")
    with pytest.raises(ModelFileError, match="leads out of the folder"):
        ModelRepository(models[0].parent).entry("../../etc/passwd")
