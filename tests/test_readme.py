"""Every command the README shows is run, in its order, on the first rows of the real data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.serving.server import free_port

README = (ROOT / "README.md").read_text()
# Bash commands of the console blocks; `make` and what needs several machines have tests of their own.
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
SCRIPTS = ("xtrain", "xexport", "xeval", "xscore", "xserve")


def idx(source: Path, target: Path, rows: int) -> None:
    """The first rows of one of MNIST's files, with the count in its header corrected."""
    content = source.read_bytes()
    header = 16 if "images" in source.name else 8
    size = 784 if "images" in source.name else 1
    target.write_bytes(content[:4] + rows.to_bytes(4, "big") + content[8:header] + content[header:][: rows * size])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A working folder whose data/ holds the first rows of the real files under their names."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "data"
    (data / "MNIST" / "raw").mkdir(parents=True)
    for source in (data_dir / "MNIST" / "raw").iterdir():
        idx(source, data / "MNIST" / "raw" / source.name, 200)
    for name in ("pathmnist-sample.npz", "pathmnist-kaggle-sample.npz"):
        with np.load(data_dir / name) as arrays:
            np.savez(data / name, **{key: arrays[key][: 200 if "train" in key else 60] for key in arrays.files})
    solution = (data_dir / "pathmnist-kaggle-sample-solution.csv").read_text().splitlines(True)
    (data / "pathmnist-kaggle-sample-solution.csv").write_text("".join(solution[:61]))
    shutil.copytree(data_dir / "tiles", data / "tiles")
    shutil.copy(data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png", folder / "tile.png")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "BENTOML_HOME": str(folder / "bentoml"), "HOME": str(folder)}


@pytest.fixture(scope="module")
def server(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """What `$ xserve …` started, to be stopped at the end; the port it got in place of the README's."""
    state: dict[str, str] = {"port": str(free_port())}
    processes: list[subprocess.Popen[bytes]] = []

    def start(words: list[str]) -> None:
        with open(folder / "serve.log", "wb") as log:
            processes.append(subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log))
        for _ in range(300):
            assert processes[0].poll() is None, (folder / "serve.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{state['port']}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("not ready")

    state_start = start
    yield {**state, "start": state_start}  # type: ignore[dict-item]
    for process in processes:
        process.terminate()
        process.wait(timeout=30)


def test_the_readme_has_a_command_of_every_kind() -> None:
    assert {shlex.split(command)[0] for command in COMMANDS} >= set(SCRIPTS)
    assert all(re.search(rf"`{name}[ `]", README) for name in SCRIPTS)


@pytest.mark.parametrize("shown", COMMANDS)
def test_command(shown: str, folder: Path, environment: dict[str, str], server: dict[str, str]) -> None:
    words = shlex.split(shown.replace("3000", server["port"]))
    if words[0] == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if words[0] == "xserve":
        server["start"](words)  # type: ignore[operator]
        return
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{shown}\n{done.stderr}"
    if words[0] == "curl":
        assert done.stdout.startswith("ID,CLASS" if "/v1/score" in shown else '{"model"'), done.stdout


def test_the_python_block_runs(folder: Path, environment: dict[str, str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (folder / "python").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "tile.png", folder / "python" / name)
    program = (
        f"import numpy as np\nimages = np.zeros((2, 28, 28, 1), np.uint8)\n{block.replace('epochs=8', 'epochs=1')}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder / "python",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "python" / "digits.csv").read_text().startswith("ID,CLASS")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_no_figure_without_its_protocol() -> None:
    results = README.partition("## Results")[2].partition("\n## ")[0]
    rows = [line for line in results.splitlines() if line.startswith("|") and "%" in line]
    assert rows and all("official" in row or "pooled" in row for row in rows)
