"""bentofile.yaml: builds for real, holds everything the service imports, installs no torch."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from tests.conftest import ROOT


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in requirements}


def test_its_packages_are_the_base_dependencies_at_the_locks_pins() -> None:
    packages = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # A container is Linux on x86-64, where onnxruntime-gpu stands for onnxruntime.
    assert names(packages) == names(base) - {"onnxruntime"}
    pins = [line.partition(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert set(packages) <= set(pins)


def test_the_lock_is_exact_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"[a-z0-9.-]+==[^ ]+( ; .+)?$", line) for line in lines)
    assert not any("://" in line or "@" in line for line in lines)


def test_it_builds_and_holds_what_the_service_imports(tmp_path: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    program = [sys.executable, "-m", "bentoml", "build", ".", "--version", "test"]
    subprocess.run(program, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    bento = tmp_path / "bentos" / "xtrain" / "test"
    assert "torch" not in (bento / "env" / "python" / "requirements.txt").read_text()
    # Imported from the bento alone: the checkout is taken off the path.
    script = """
import sys
sys.path = [entry for entry in sys.path if "__editable__" not in entry]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path.insert(0, ".")
import serving.service
ours = [name for name in sys.modules if name.split(".")[0] in ("serving", "training", "export")]
print(all(sys.modules[name].__file__.startswith(sys.argv[1]) for name in ours), "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(bento / "src")],
        cwd=bento / "src",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
