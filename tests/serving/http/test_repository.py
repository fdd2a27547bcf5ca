"""Several models and versions at once, by their own client; what was chosen outlives a crash and a restart."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from serving.model.repository import ModelRepository, natural
from serving.model.selection import FILE, Selection
from tests.serving.http.test_app import NPY, error, npy
from tests.serving.server import process_of, running

ADMIN = {"Authorization": "Bearer root"}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models that answer differently."""
    folder = tmp_path_factory.mktemp("exported")
    for name, options in (
        ("plain", ExportOptions(calibrate=False)),
        ("views", ExportOptions(calibrate=False, tta="dihedral")),
        ("half", ExportOptions(calibrate=False, precision="fp16")),
    ):
        export_runs([sample_run], folder / f"{name}.onnx", options)
    return [folder / f"{name}.onnx" for name in ("plain", "views", "half")]


@pytest.fixture
def folder(exported: list[Path], tmp_path: Path) -> Path:
    """tissue in versions 2 and 10, other in version 1, and one that is broken."""
    root = tmp_path / "models"
    for place, source in (("tissue/2", exported[0]), ("tissue/10", exported[1]), ("other/1", exported[2])):
        (root / place).mkdir(parents=True)
        shutil.copy(source, root / place / "model.onnx")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(exported[0].read_bytes()[:5000])
    (root / "notes.txt").write_text("no model")
    (tmp_path / "admins").write_text("root\n")
    return root


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with running(folder, tmp_path, *options(tmp_path)) as client:
        yield client


def options(home: Path) -> tuple[str, ...]:
    return ("--admin-tokens", str(home / "admins"), "--default-model", "tissue")


def truth(path: Path) -> np.ndarray:
    return Predictor(path, "cpu").predict(IMAGES)


def ask(server: httpx.Client, **parameters: str) -> tuple[dict[str, Any], np.ndarray]:
    answer = server.post("/v1/predict", content=npy(IMAGES), headers=NPY, params=parameters)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return content, np.array([item["probabilities"] for item in content["predictions"]])


def states(server: httpx.Client) -> dict[tuple[str, str], str]:
    index = server.post("/v2/repository/index", content=b"").json()
    return {(entry["name"], entry["version"]): entry["state"] for entry in index}


def test_each_version_answers_for_itself(server: httpx.Client, exported: list[Path]) -> None:
    for parameters, path in (
        ({}, exported[1]),  # the default one, in its latest version: 10 and not 2
        ({"model": "tissue"}, exported[1]),
        ({"model": "tissue", "version": "2"}, exported[0]),
        ({"model": "other"}, exported[2]),
    ):
        content, probabilities = ask(server, **parameters)
        np.testing.assert_allclose(probabilities, truth(path), atol=1e-3 if path == exported[2] else 1e-5)
        assert content["model"] == parameters.get("model", "tissue")
        assert content["version"] == parameters.get("version", "1" if content["model"] == "other" else "10")
        assert server.get("/v1/model", params=parameters).json()["sha256"] == content["sha256"]
        scored = server.post("/v1/score", content=npy(IMAGES), headers=NPY, params=parameters)
        assert scored.headers["x-model-sha256"] == content["sha256"]
    for parameters in ({"model": "none"}, {"version": "3"}, {"model": "other", "version": "10"}, {"model": "broken"}):
        error(server.post("/v1/predict", content=npy(IMAGES), headers=NPY, params=parameters), 404, "not_found")
    loaded = server.get("/v1/models").json()
    assert loaded["default"] == "tissue"
    assert {(one["name"], one["version"]) for one in loaded["models"]} == {
        ("tissue", "2"),
        ("tissue", "10"),
        ("other", "1"),
    }
    assert states(server)["broken", "1"] == "UNAVAILABLE"
    assert server.get("/metrics").text.count("xtrain_model{") == 3


def test_the_protocols_own_client(server: httpx.Client, exported: list[Path], folder: Path) -> None:
    client = triton.InferenceServerClient(f"{server.base_url.host}:{server.base_url.port}")
    try:
        tensor = triton.InferInput("images", [3, 28, 28, 3], "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        for version, path in (("2", exported[0]), ("10", exported[1]), ("", exported[1])):
            answer = client.infer("tissue", [tensor], model_version=version)
            np.testing.assert_allclose(answer.as_numpy("probabilities"), truth(path), atol=1e-5)
        assert client.get_model_metadata("tissue")["versions"] == ["2", "10"]
        with pytest.raises(triton.InferenceServerException, match="admin's bearer token"):
            client.load_model("other")
        assert client.is_model_ready("other")
        client.unload_model("other", headers=ADMIN)
        assert not client.is_model_ready("other") and client.is_server_ready()
        with pytest.raises(triton.InferenceServerException, match="has not loaded"):
            client.infer("other", [tensor])
        index = {entry["name"]: entry for entry in client.get_model_repository_index()}
        assert index["other"]["state"] == "UNAVAILABLE" and "not an ONNX file" in index["broken"]["reason"]
        client.load_model("other", headers=ADMIN)
        assert client.is_model_ready("other")
        for name, message in (("none", "no model of this name"), ("broken", "not an ONNX file")):
            with pytest.raises(triton.InferenceServerException, match=message):
                client.load_model(name, headers=ADMIN)
        with pytest.raises(triton.InferenceServerException, match="default model"):
            client.unload_model("tissue", headers=ADMIN)
        with pytest.raises(triton.InferenceServerException, match="without parameters"):
            client.load_model("other", headers=ADMIN, config=json.dumps({"backend": "onnxruntime"}))
        # A version that is put there later, and one whose file is another by now.
        (folder / "tissue" / "11").mkdir()
        shutil.copy(exported[0], folder / "tissue" / "11" / "model.onnx")
        shutil.copy(exported[1], folder / "tissue" / "2" / "model.onnx")
        client.load_model("tissue", headers=ADMIN)
        for version, path in (("2", exported[1]), ("11", exported[0]), ("", exported[0])):
            answer = client.infer("tissue", [tensor], model_version=version)
            np.testing.assert_allclose(answer.as_numpy("probabilities"), truth(path), atol=1e-5)
        # All versions or none: with one of them broken, what was loaded goes on.
        (folder / "tissue" / "11" / "model.onnx").write_bytes(b"broken")
        with pytest.raises(triton.InferenceServerException, match="not an ONNX file"):
            client.load_model("tissue", headers=ADMIN)
        assert client.is_model_ready("tissue", "11")
    finally:
        client.close()


def test_a_swap_in_a_folder_answers_with_the_version_that_it_says(
    folder: Path, exported: list[Path], tmp_path: Path
) -> None:
    options_ = ("--admin-tokens", str(tmp_path / "admins"), "--default-model", "other")
    with running(folder, tmp_path, *options_) as server:
        answer = server.post("/v1/model", json={"path": "tissue/2/model.onnx"}, headers=ADMIN)
        assert answer.status_code == 200 and answer.json()["version"] == "2"
        content, probabilities = ask(server)
        assert (content["model"], content["version"]) == ("tissue", "2")
        np.testing.assert_allclose(probabilities, truth(exported[0]), atol=1e-5)
        assert ask(server, model="tissue")[0]["version"] == "10" and ask(server, model="other")[0]["version"] == "1"
    with running(folder, tmp_path, "--admin-tokens", str(tmp_path / "admins")) as server:
        assert ask(server)[0]["version"] == "2", "kept for the next start"
        # A version that is gone from the folder goes with the next load, and the default is the latest again.
        shutil.rmtree(folder / "tissue" / "2")
        # Nor does a file that became a link out of the folder break what has nothing to do with it.
        (folder / "other" / "1" / "model.onnx").unlink()
        (folder / "other" / "1" / "model.onnx").symlink_to(exported[0])
        (folder / "new" / "1").mkdir(parents=True)
        shutil.copy(exported[0], folder / "new" / "1" / "model.onnx")
        assert server.post("/v2/repository/models/tissue/load", headers=ADMIN, content=b"").status_code == 200
        assert ask(server)[0]["version"] == "10"
        assert ("tissue", "2") not in states(server)
        assert "leads out" in error(
            server.post("/v2/repository/models/other/load", headers=ADMIN, content=b""), 422, "wrong_input"
        )
    with running(folder, tmp_path) as server:
        assert states(server)["new", "1"] == "READY", "nobody unloaded it"


def test_the_memory_of_all_models_has_a_limit(folder: Path, exported: list[Path], tmp_path: Path) -> None:
    sizes = sorted(path.stat().st_size for path in exported)
    limit = sum(sizes) - 1
    with running(folder, tmp_path, *options(tmp_path), "--model-memory", str(limit)) as server:
        assert sorted(states(server).values()).count("READY") == 2
        name = next(name for (name, _), state in states(server).items() if state != "READY" and name != "broken")
        answer = server.post(f"/v2/repository/models/{name}/load", headers=ADMIN, content=b"")
        assert "unload one first" in error(answer, 422, "wrong_input")
        for version in range(20, 26):  # each small enough by itself
            (folder / "many" / str(version)).mkdir(parents=True)
            shutil.copy(exported[0], folder / "many" / str(version) / "model.onnx")
        answer = server.post("/v2/repository/models/many/load", headers=ADMIN, content=b"")
        assert "unload one first" in error(answer, 422, "wrong_input")
        assert not any(name == "many" for (name, _), state in states(server).items() if state == "READY")


def test_a_choice_survives_a_crash_and_a_restart(folder: Path, tmp_path: Path) -> None:
    with process_of(folder, tmp_path, *options(tmp_path)) as (server, process):
        assert server.post("/v2/repository/models/other/unload", headers=ADMIN, content=b"").status_code == 200
        workers = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
        (worker,) = workers
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(server, lambda: ("other", "1") in states(server) and worker.pid not in psutil.pids())
        assert states(server)["other", "1"] == "UNAVAILABLE" and states(server)["tissue", "2"] == "READY"
    with running(folder, tmp_path, *options(tmp_path)) as server:
        assert states(server)["other", "1"] == "UNAVAILABLE"
        assert server.post("/v2/repository/models/other/load", headers=ADMIN, content=b"").status_code == 200
    with running(folder, tmp_path, *options(tmp_path)) as server:
        assert states(server)["other", "1"] == "READY"


def test_a_swap_survives_kill_9_until_the_file_is_another(exported: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    shutil.copy(exported[0], root / "one.onnx")
    shutil.copy(exported[1], root / "two.onnx")
    (tmp_path / "admins").write_text("root\n")
    admins = ("--admin-tokens", str(tmp_path / "admins"))
    digests = [Predictor(path, "cpu").digest for path in exported]

    def digest(server: httpx.Client) -> str:
        return str(server.get("/v1/model").json()["sha256"])

    with process_of(root / "one.onnx", tmp_path, *admins) as (server, process):
        assert digest(server) == digests[0]
        assert server.post("/v1/model", json={"path": "two.onnx"}, headers=ADMIN).status_code == 200
        (worker,) = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(server, lambda: digest(server) == digests[1] and worker.pid not in psutil.pids())
    with running(root / "one.onnx", tmp_path, *admins) as server:
        assert digest(server) == digests[1]
        assert "two.onnx was chosen instead of one.onnx" in (tmp_path / "serve.log").read_text()
    shutil.copy(exported[2], root / "one.onnx")
    with running(root / "one.onnx", tmp_path, *admins) as server:
        assert digest(server) == digests[2], "a choice against another file is void"


def test_a_read_only_repository_is_served_and_told_of(folder: Path, tmp_path: Path) -> None:
    (folder / FILE).mkdir()  # root may write anywhere; a folder in its place cannot be replaced
    with running(folder, tmp_path, *options(tmp_path)) as server:
        assert server.post("/v2/repository/models/other/unload", headers=ADMIN, content=b"").status_code == 200
        assert states(server)["other", "1"] == "UNAVAILABLE"
    assert "is not kept for a restart" in (tmp_path / "serve.log").read_text()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"source": 1}', "[" * 100_000, "\0", '{"loaded": 7}'])
def test_a_damaged_choice_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    assert Selection.read(tmp_path) is None
    chosen = Selection("a", ("x",), ("y",), "z")
    assert chosen.write(tmp_path) == "" and Selection.read(tmp_path) == chosen


def test_what_a_folder_holds(folder: Path, exported: list[Path], tmp_path: Path) -> None:
    shutil.copy(exported[0], folder / "flat.onnx")
    (folder / "link").symlink_to(tmp_path)
    (folder / "tissue" / "3").mkdir()
    (folder / "tissue" / "3" / "model.onnx").symlink_to(exported[0])
    entries = ModelRepository(folder).entries()
    assert [(entry.name, entry.version) for entry in entries if not entry.fault] == [
        ("other", "1"),
        ("plain", "1"),
        ("tissue", "2"),
        ("tissue", "10"),
    ]
    assert {entry.name: "leads out" in entry.fault for entry in entries if entry.fault} == {
        "broken": False,
        "tissue": True,
    }
    assert sorted(["10", "9", "2.10", "2.9", "v1", ""], key=natural) == ["", "2.9", "2.10", "9", "10", "v1"]


def test_why_no_model_of_a_folder_can_be_loaded(command: Any, folder: Path) -> None:
    result = command("xserve", folder, "--model-memory", "1000")
    assert result.code == 1 and "--model-memory is 1000; raise it" in result.error
    result = command("xserve", folder, "--device", "cuda")
    assert result.code == 2 and "--device cuda" in result.error and "no model" not in result.error


def test_a_folder_without_a_model(command: Any, tmp_path: Path) -> None:
    result = command("xserve", tmp_path)
    assert result.code == 1 and "no model in it can be loaded" in result.error and "\n" not in result.error.strip()


def is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def wait_for(server: httpx.Client, condition: Any) -> None:
    for _ in range(150):
        try:
            if condition():
                return
        except (httpx.TransportError, KeyError, json.JSONDecodeError):
            pass
        time.sleep(0.2)
    raise AssertionError("not within 30 s")
