"""The container: its pins, its health check, and the bento, built and served as the container would."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from serving.healthcheck import url
from tests.conftest import ROOT
from tests.serving.server import free_port, running

LOCK = {line.partition(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
DOCKERFILE = (ROOT / "serving" / "Dockerfile").read_text()
NOT_SERVING = {"torch", "torchvision", "medmnist", "onnx", "scipy", "matplotlib", "pytest", "uv", "pip"}


def pins(variant: str) -> dict[str, list[str]]:
    """Each pin of a container's requirements with its digests."""
    text = (ROOT / "serving" / f"requirements-{variant}.txt").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines()]
    assert not any("://" in line for line in text.splitlines())
    return {pin: [digest.removeprefix("--hash=sha256:") for digest in digests] for pin, *digests in lines}


def test_the_lock_is_exact_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"[a-z0-9.-]+==[^ ]+( ; .+)?$", line) for line in lines)
    assert not any("://" in line or "@" in line for line in lines)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_a_container_has_the_locks_pins_with_digests_and_no_torch(variant: str) -> None:
    found = pins(variant)
    assert {re.sub(r"\[.*\]", "", pin) for pin in found} <= LOCK
    assert all(digests and all(re.fullmatch(r"[0-9a-f]{64}", one) for one in digests) for digests in found.values())
    names = {pin.partition("==")[0] for pin in found}
    assert not names & NOT_SERVING and {"bentoml", "grpcio", "opentelemetry-sdk"} <= names
    runtimes = {name for name in names if name.startswith("onnxruntime")}
    assert runtimes == {"onnxruntime" if variant == "cpu" else "onnxruntime-gpu"}
    assert ("nvidia-cudnn-cu13" in names) == (variant == "gpu")


def test_the_dockerfile_leaves_no_tools_and_runs_as_a_number() -> None:
    ignore = (ROOT / "serving" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[1] == "**" and {"!**/*.onnx", "!**/*.onnx.sha256", "!**/*.onnx.sig"} <= set(ignore)
    build, _, final = DOCKERFILE.partition("\nFROM ${BASE}\n")
    assert "--require-hashes" in build and "--no-deps" in build
    assert not re.search(r"apt-get|\bgcc\b|\bcurl\b|\bgit\b", DOCKERFILE)
    assert re.search(r"^USER \d+:\d+$", final, re.M) and "STOPSIGNAL SIGTERM" in final
    assert "! -name '*.py' ! -path '/app/serving/ui/*' -delete" in build  # keys and tokens that lie beside the sources
    assert "BENTOML_DO_NOT_TRACK=True" in final and "ORT_DISABLE_TELEMETRY=1" in final
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", build, re.M):
        names = [
            name.replace("${VARIANT}", "cpu") for name in source.split() if not name.startswith(("src/", "${MODEL}"))
        ]
        assert all(list(ROOT.glob(name)) for name in names), source


def test_what_is_pruned_leaves_the_headers_that_cuda_compiles_from(tmp_path: Path) -> None:
    (prune,) = re.findall(r"&& (find \. .*? -exec rm -rf \{\} \+)", DOCKERFILE, re.S)
    kept = {
        "numpy/core.py",
        "nvidia/cu13/include/cuda_fp16.h",
        "nvidia/cu13/include/cccl/cuda/tests/one.h",
        "nvidia/cudnn/include/cudnn.h",
        "nvidia/cudnn/lib/libcudnn.so.9",
    }
    pruned = {
        "numpy/core.pyi",
        "numpy/include/arrays.h",
        "numpy/tests/one.py",
        "nvidia/tests/one.py",
        "x/nvidia/include/y.h",
    }
    for name in kept | pruned:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["sh", "-c", prune], cwd=tmp_path, check=True)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "http://127.0.0.1:3000/readyz"),
        ({"XTRAIN_HOST": "0.0.0.0", "PORT": "80"}, "http://127.0.0.1:80/readyz"),
        ({"XTRAIN_HOST": "::", "PORT": "81"}, "http://[::1]:81/readyz"),
        ({"XTRAIN_ADDRESS": "https://0.0.0.0:8443", "PORT": "81"}, "https://127.0.0.1:8443/readyz"),
        ({"XTRAIN_ADDRESS": "http://[::]:8080"}, "http://[::1]:8080/readyz"),
        ({"XTRAIN_HOST": "10.1.2.3", "XTRAIN_CERTIFICATE": "/c.pem"}, "https://10.1.2.3:3000/readyz"),
    ],
)
def test_the_health_check_asks_where_the_server_listens(environment: dict[str, str], expected: str) -> None:
    assert url(environment) == expected


def test_the_health_check_tells_ready_from_not(sample_model: Path, tmp_path: Path) -> None:
    def check(port: int) -> subprocess.CompletedProcess[str]:
        # As in the container: a proxy of the environment is none of its business.
        environment = {**os.environ, "PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        command = [sys.executable, "-m", "serving.healthcheck"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)

    with running(sample_model, tmp_path) as client:
        port = client.base_url.port
        assert port and check(port).returncode == 0
    ended = check(port)
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1 and "not ready" in ended.stderr


def test_onnxruntime_reports_to_nobody(sample_model: Path, tmp_path: Path) -> None:
    """Its telemetry leaves an identifier below the home folder; with it off, nothing is written."""
    code = f"import xtrain; xtrain.load({str(sample_model)!r})"
    environment = {**os.environ, "HOME": str(tmp_path)} | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bento, built without network and without uv."""
    home = tmp_path_factory.mktemp("bentoml")
    environment = {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": "/usr/bin:/bin",
        "UV_OFFLINE": "1",
    }
    program = [sys.executable, "-m", "bentoml", "build", ".", "--version", "test"]
    subprocess.run(program, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    return home / "bentos" / "xtrain" / "test"


def test_the_bento_holds_the_service_and_the_containers_own_dockerfile(bento: Path) -> None:
    assert (bento / "env" / "docker" / "Dockerfile").read_text() == DOCKERFILE.rstrip("\n")
    tracked = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "serving",
            "xtrain",
            "LICENSE",
            "pyproject.toml",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    packed = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    left_out = {"serving/Dockerfile.dockerignore"}
    assert not any(name.startswith("tests") for name in packed)
    assert (
        packed - {"bentofile.yaml"} == {name for name in tracked if not name.startswith("serving/deploy/")} - left_out
    )


def test_the_bento_serves_by_the_dockerfiles_entry_point_without_torch(
    bento: Path, sample_model: Path, tmp_path: Path
) -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.M)
    (variables,) = re.findall(r"^ENV PATH=.*?(?=^WORKDIR)", DOCKERFILE.replace("\\\n", " "), re.M | re.S)
    inside = dict(pair.split("=", 1) for pair in shlex.split(variables)[1:])
    port, src = free_port(), bento / "src"
    inside |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(src), "HOME": str(tmp_path)}
    inside |= {"XTRAIN_MODEL": str(sample_model), "XTRAIN_HOST": "127.0.0.1", "PORT": str(port)}
    inside["BENTOML_HOME"] = str(tmp_path / "bentoml")
    # The checkout, installed for these tests, is taken off the path: what answers is the bento's.
    start = (
        "import runpy, sys; sys.meta_path = [one for one in sys.meta_path if 'editable' not in repr(one)]; "
        "sys.path = [one for one in sys.path if '__editable__' not in one]; sys.argv = ['serving']; "
        "runpy.run_module('serving', run_name='__main__')"
    )
    assert json.loads(entry) == ["python3", "-m", "serving"]
    log = tmp_path / "serve.log"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", start], cwd=src, env=inside, stderr=file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(300):
                assert process.poll() is None, log.read_text()
                try:
                    if client.get("/readyz").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            assert client.get("/v1/model").json()["name"] == "sample"
            assert client.get("/ui/").is_success
        mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in _tree(process.pid)]
        assert not any("libtorch" in text for text in mapped)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _tree(pid: int) -> list[int]:
    import psutil

    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def test_without_a_model_it_ends_with_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "XTRAIN_MODEL": str(tmp_path / "model.onnx")}
    command = [sys.executable, "-m", "serving"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "no such file" in ended.stderr and len(ended.stderr.splitlines()) == 1
