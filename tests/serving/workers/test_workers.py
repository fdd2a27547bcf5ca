"""Several processes of one server: the same models in all, the metrics of all, and what happens when one is killed."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from serving.workers.peers import FOLDER
from tests.serving.http.test_app import NPY, npy
from tests.serving.server import XSERVE, free_port, process_of

ADMIN = {"Authorization": "Bearer root"}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def models(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that answer differently, a broken one, and the admin's token."""
    folder = tmp_path_factory.mktemp("workers")
    export_runs([sample_run], folder / "plain.onnx", ExportOptions(calibrate=False))
    export_runs([sample_run], folder / "views.onnx", ExportOptions(calibrate=False, tta="dihedral"))
    for path in folder.glob("*.sha256"):
        path.unlink()  # a test copies one file over another
    (folder / "broken.onnx").write_bytes((folder / "plain.onnx").read_bytes()[:5000])
    (folder / "admins").write_text("root\n")
    return folder


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "models"))


def workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes that answer, by their index."""
    found = {}
    for child in psutil.Process(process.pid).children():
        words = child.cmdline()
        if "--worker-id" in words:
            found[int(words[words.index("--worker-id") + 1])] = child
    return [found[index] for index in sorted(found)]


def wait_for_workers(process: "subprocess.Popen[bytes]", log: Path, started: int) -> list[psutil.Process]:
    """Wait until so many workers have been started in all, at most a minute, and two run."""
    for _ in range(600):
        if log.read_text().count("Service xtrain initialized") >= started and len(workers(process)) == 2:
            return workers(process)
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Any, Path]]:
    """A client, the process, and its log."""
    words = ("--devices", "cpu:2", "--admin-tokens", str(folder / "admins"))
    with process_of(folder / "plain.onnx", tmp_path, *words) as (client, process):
        wait_for_workers(process, tmp_path / "serve.log", 2)
        yield client, process, tmp_path / "serve.log"


def ask(client: httpx.Client, times: int = 24) -> Counter[str]:
    """Ask so often, each time on a new connection, which any worker may take; return the digests that answered."""
    digests = Counter[str]()
    for _ in range(times):
        with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as fresh:
            digests[
                fresh.post("/v1/predict", content=npy(IMAGES), headers=NPY).raise_for_status().json()["sha256"]
            ] += 1
    return digests


def swap(client: httpx.Client, name: str) -> httpx.Response:
    return client.post("/v1/model", json={"path": f"{name}.onnx"}, headers=ADMIN)


def computed(processes: list[psutil.Process]) -> list[float]:
    return [process.cpu_times().user for process in processes]


def test_all_change_together_or_not_at_all(server: tuple[httpx.Client, Any, Path], folder: Path) -> None:
    client, process, _ = server
    digests = {name: Predictor(folder / f"{name}.onnx", "cpu").digest for name in ("plain", "views")}
    before = computed(workers(process))
    assert ask(client, 200) == {digests["plain"]: 200}
    # The system hands connections to whoever is free; both have had some.
    assert all(after > first for after, first in zip(computed(workers(process)), before, strict=True))
    for name in ("views", "plain", "views"):
        swapped = swap(client, name)
        assert swapped.json() == {"model": name, "version": "1", "sha256": digests[name], "workers": [1, 2]}
        assert ask(client) == {digests[name]: 24}
    assert swap(client, "broken").status_code == 422
    assert ask(client) == {digests["views"]: 24}


def test_swaps_under_load_by_two_administrators(server: tuple[httpx.Client, Any, Path], folder: Path) -> None:
    client, _, log = server
    expected = {}
    for name in ("plain", "views"):
        predictor = Predictor(folder / f"{name}.onnx", "cpu")
        expected[predictor.digest] = predictor.predict(IMAGES)
    stop, faults, seen = threading.Event(), list[str](), Counter[str]()

    def load() -> None:
        while not stop.is_set():
            with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as fresh:
                answer = fresh.post("/v1/predict", content=npy(IMAGES), headers=NPY)
            if answer.status_code != 200:
                faults.append(answer.text)
                continue
            got = np.array([one["probabilities"] for one in answer.json()["predictions"]])
            seen[answer.json()["sha256"]] += 1
            if not np.allclose(got, expected[answer.json()["sha256"]], atol=1e-5):
                faults.append("another model's answer")

    def change(names: tuple[str, ...]) -> None:
        for name in names:
            with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as fresh:
                answer = swap(fresh, name)
            if answer.status_code != 200:
                faults.append(answer.text)

    loads = [threading.Thread(target=load) for _ in range(3)]
    orders = ("views", "plain") * 5, ("plain", "views") * 5
    changes = [threading.Thread(target=change, args=(order,)) for order in orders]
    for thread in [*loads, *changes]:
        thread.start()
    for thread in changes:
        thread.join(timeout=120)
    stop.set()
    for thread in loads:
        thread.join(timeout=30)
    assert not faults and len(seen) == 2, (faults[:3], seen)
    assert len(ask(client)) == 1  # and all agree at the end
    assert "Traceback" not in log.read_text()


def test_the_metrics_and_statistics_are_those_of_all(server: tuple[httpx.Client, Any, Path]) -> None:
    client, process, _ = server
    ask(client, 100)
    for _ in range(100):  # what a worker counts by class, it tells the others once a second
        text = client.get("/metrics").text
        images = sum(map(float, re.findall(r"^xtrain_predictions_total{.*} (\S+)", text, re.M)))
        if images == 300:
            break
        time.sleep(0.1)
    assert images == 300
    assert 'xtrain_requests_total{code="200",route="predict"} 100.0' in text
    assert re.search(r'^xtrain_model{.*name="plain".*} 2\.0$', text, re.M)
    assert "xtrain_waiting_images 0.0" in text and "xtrain_reserved_bytes 0.0" in text
    resident = dict(re.findall(r'^process_resident_memory_bytes{worker="(.)"} (\S+)', text, re.M))
    told = [process.memory_info().rss for process in workers(process)]
    assert [float(resident[index]) for index in ("1", "2")] == pytest.approx(told, rel=0.2)
    (statistics,) = client.get("/v2/models/plain/stats").json()["model_stats"]
    assert statistics["inference_count"] == 300 and statistics["inference_stats"]["success"]["count"] == 100


def test_a_killed_worker_comes_back_with_what_was_chosen(server: tuple[httpx.Client, Any, Path], folder: Path) -> None:
    client, process, log = server
    digests = {name: Predictor(folder / f"{name}.onnx", "cpu").digest for name in ("plain", "views")}
    assert swap(client, "views").is_success
    first, second = workers(process)
    os.kill(second.pid, signal.SIGKILL)
    second.wait(10)
    assert swap(client, "plain").is_success and swap(client, "views").is_success  # by whoever is left
    wait_for_workers(process, log, 3)
    assert ask(client) == {digests["views"]: 24}
    assert swap(client, "plain").json()["workers"] == [1, 2]
    assert ask(client) == {digests["plain"]: 24}
    os.kill(first.pid, signal.SIGKILL)
    wait_for_workers(process, log, 4)
    assert ask(client) == {digests["plain"]: 24}


def test_a_worker_comes_back_with_the_file_that_answers_or_not_at_all(
    server: tuple[httpx.Client, Any, Path], folder: Path
) -> None:
    client, process, log = server
    before = ask(client)
    shutil.copy(folder / "views.onnx", folder / "plain.onnx")  # and no SIGHUP
    victim = workers(process)[0]
    os.kill(victim.pid, signal.SIGKILL)
    for _ in range(300):
        if "is not the file that answers" in log.read_text():
            break
        time.sleep(0.1)
    assert ask(client) == before and "Traceback" not in log.read_text()
    process.send_signal(signal.SIGHUP)
    wait_for_workers(process, log, 3)
    assert ask(client) == {Predictor(folder / "views.onnx", "cpu").digest: 24}


def test_counters_never_go_backwards(server: tuple[httpx.Client, Any, Path], folder: Path) -> None:
    client, process, log = server

    def counted() -> float:
        with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as fresh:
            text = fresh.get("/metrics").text
        return sum(map(float, re.findall(r"^xtrain_predictions_total{.*} (\S+)", text, re.M)))

    seen = [0.0]
    shutil.copy(folder / "plain.onnx", folder / "other.onnx")
    for turn in range(30):
        ask(client, 5)
        seen.append(counted())
        if turn % 10 == 5:  # the same name and version again
            assert swap(client, "other" if turn == 5 else "plain").is_success
    time.sleep(1.5)
    seen.append(counted())
    assert seen == sorted(seen) and seen[-1] == 30 * 5 * 3, seen
    assert "Traceback" not in log.read_text()


def test_a_change_that_cannot_be_written_down_is_none(server: tuple[httpx.Client, Any, Path]) -> None:
    client, process, _ = server
    before, running = ask(client), workers(process)
    place = Path(running[0].environ()[FOLDER])
    for worker in running:  # stands for a full disk
        (place / f".state.json-{worker.pid}").mkdir()
    time.sleep(1)
    threads = [worker.num_threads() for worker in running]
    for _ in range(3):
        refused = swap(client, "views")
        assert refused.status_code == 503 and "cannot tell each other" in refused.text
    assert not (place / "proposal.json").exists() and ask(client) == before
    time.sleep(1)
    assert all(worker.num_threads() <= count + 2 for worker, count in zip(running, threads, strict=True))
    for worker in running:
        (place / f".state.json-{worker.pid}").rmdir()
    assert swap(client, "views").is_success


def test_sighup_reaches_all(server: tuple[httpx.Client, Any, Path], folder: Path) -> None:
    client, process, log = server
    shutil.copy(folder / "broken.onnx", folder / "plain.onnx")
    before = ask(client)
    process.send_signal(signal.SIGHUP)
    for _ in range(200):
        if log.read_text().count("not loaded") == 2:
            break
        time.sleep(0.1)
    assert ask(client) == before
    shutil.copy(folder / "views.onnx", folder / "plain.onnx")
    process.send_signal(signal.SIGHUP)
    for _ in range(200):
        if "from now on" in log.read_text():
            break
        time.sleep(0.1)
    assert ask(client) == {Predictor(folder / "views.onnx", "cpu").digest: 24}


def test_the_end_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    words = ("--workers", "2", "--grpc", f"127.0.0.1:{port}", "--threads", "2")
    with process_of(folder / "plain.onnx", tmp_path, *words) as (client, process):
        wait_for_workers(process, tmp_path / "serve.log", 2)
        shared = {Path(one.environ()[FOLDER]) for one in workers(process)}
        (place,) = shared
        assert place.is_dir() and (place.stat().st_mode & 0o777) == 0o700
        for _ in range(10):  # each may meet the other worker
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as caller:
                assert caller.is_model_ready("plain")
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as caller:
            tensor = triton.InferInput("images", list(IMAGES.shape), "UINT8")
            tensor.set_data_from_numpy(IMAGES)
            assert caller.infer("plain", [tensor]).as_numpy("probabilities").shape == (3, 9)
        assert client.get("/readyz").status_code == 200
        ended = workers(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not place.exists() and not any(one.is_running() for one in ended)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "cpu:0"), "neither a list of GPUs"),
        (("--devices", "0,0"), "names a GPU twice"),
        (("--devices", "0;1"), "neither a list of GPUs"),
        (("--devices", "cpu:2", "--device", "cuda"), "contradict"),
        (("--devices", "0,1", "--device", "cpu"), "contradict"),
        (("--devices", "0,1"), "--device cuda:"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_devices_that_are_none(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = subprocess.run([*XSERVE, str(folder / "plain.onnx"), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
