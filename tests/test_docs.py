"""The README and the pages: every command shown is run, generated parts are current, the site builds, links lead on."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import HAS_REAL_DATA, ROOT
from tests.serving.server import free_port

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
SCRIPTS = ("xtrain", "xexport", "xeval", "xscore", "xpredict", "xserve")


def shown(page: Path) -> list[str]:
    """Commands of the console blocks; other blocks hold what needs several machines or a download."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


COMMANDS = [(page.name, command) for page in PAGES for command in shown(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A home and working folder: data/ with the first rows of the real files, tiles/ with folders of classes."""
    folder = tmp_path_factory.mktemp("docs")
    data = folder / "data"
    data.mkdir()
    for name in ("pathmnist-sample.npz", "pathmnist-kaggle-sample.npz"):
        with np.load(data_dir / name) as arrays:
            np.savez(data / name, **{key: arrays[key][: 200 if "train" in key else 60] for key in arrays.files})
    solution = (data_dir / "pathmnist-kaggle-sample-solution.csv").read_text().splitlines(True)
    (data / "pathmnist-kaggle-sample-solution.csv").write_text("".join(solution[:61]))
    with np.load(data / "pathmnist-sample.npz") as arrays:
        for index, (pixels, label) in enumerate(zip(arrays["train_images"], arrays["train_labels"], strict=True)):
            target = folder / "tiles" / f"class {label[0]}" / f"case{index % 12}-{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((40, 40)).save(target)
    shutil.copy(data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png", folder / "tile.png")
    if HAS_REAL_DATA:  # what the README's quick start downloads
        (folder / ".cache" / "xtrain").mkdir(parents=True)
        shutil.copy(data_dir / "medmnist" / "breastmnist.npz", folder / ".cache" / "xtrain")
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "XTRAIN_DATA"}
    return {**kept, "PATH": path, "BENTOML_HOME": str(folder / "bentoml"), "HOME": str(folder)}


class Terminal:
    """Runs the commands of all pages in one folder, each text once; `xserve` stays until the next one or the end."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment, self.done = folder, environment, set[str]()
        self.server: subprocess.Popen[bytes] | None = None
        self.port = str(free_port())

    def run(self, command: str) -> subprocess.CompletedProcess[str] | None:
        words = shlex.split(command.replace("3000", self.port))
        if words[0] == "xserve":
            self.serve(words)
            return None
        if command in self.done and words[0] != "curl":
            return None
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        self.done.add(command)
        return done

    def serve(self, words: list[str]) -> None:
        self.stop()
        log = self.folder / "serve.log"
        with open(log, "wb") as file:
            self.server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=file, stderr=file)
        for _ in range(300):
            assert self.server.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("not ready")

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(timeout=30)
            self.server = None


@pytest.fixture(scope="module")
def terminal(folder: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(folder, environment)
    yield terminal
    terminal.stop()


def test_every_command_is_shown_and_named() -> None:
    assert {shlex.split(command)[0] for _, command in COMMANDS} >= set(SCRIPTS)
    assert all(re.search(rf"`{name}[ `]", README) for name in SCRIPTS)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command(page: str, command: str, terminal: Terminal) -> None:
    name = shlex.split(command)[0]
    if name == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if "breast" in command and not HAS_REAL_DATA:
        pytest.skip("BreastMNIST must be downloaded, and there is no network in tests")
    done = terminal.run(command)
    if done is not None and name == "curl":
        assert done.stdout.startswith("ID,CLASS" if "/v1/score" in command else ('{"model"', '{"default"')), done.stdout


def test_the_python_block_runs(folder: Path, environment: dict[str, str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), flags=re.DOTALL)
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


def test_generated_parts_are_current() -> None:
    """In a process of its own: the script lies outside the packages."""
    program = (
        "import sys; sys.path.insert(0, 'docs'); import generate\n"
        "stale = [page.name for page in generate.PAGES if generate.render(page.read_text()) != page.read_text()]\n"
        "print(stale)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"run: python docs/generate.py ({done.stdout.strip()})"


def test_every_option_and_status_is_documented() -> None:
    from serving.http.errors import CODES
    from training import cli as training_cli

    pages = "\n".join(page.read_text() for page in PAGES)
    serve = (ROOT / "docs" / "serve.md").read_text()
    assert all(f"| {status} | `{code}` |" in serve for status, code in CODES.items())
    import export.cli
    import scoring.cli
    import serving.cli

    commands = [*training_cli.COMMANDS.values(), training_cli.train, export.cli.export, export.cli.show]
    commands += [
        scoring.cli.evaluate,
        scoring.cli.score,
        scoring.cli.merge_command,
        scoring.cli.predict,
        serving.cli.serve,
    ]
    for command in commands:
        for parameter in command.params:
            long = [flag for flag in parameter.opts if flag.startswith("--")]
            assert not long or long[0] in pages or f"--[no-]{long[0][2:]}" in pages, (command.name, long)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "mkdocs"),
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert names >= {page.stem for page in PAGES[1:]}
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css))"', (tmp_path / "site" / "index.html").read_text())
    assert not loaded, "the site loads nothing from other hosts"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 700


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_accuracy_without_its_protocol(page: Path) -> None:
    rows = [line for line in page.read_text().splitlines() if line.startswith("|") and re.search(r"\d %", line)]
    assert all("official" in row or "pooled" in row for row in rows if "1 %" not in row)
