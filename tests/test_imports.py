"""The rules of who imports whom, each checked in a fresh process."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = ("torch", "torchvision", "medmnist", "sklearn", "onnx", "matplotlib", "pretrainedmodels", "pandas")
# The modules of `training` that need no torch, which serving may use.
LIGHT = {
    "training",
    *(f"training.{name}" for name in "atomic catalog console datasets errors mapping metrics splits".split()),
}


def modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def loaded_by(names: list[str]) -> set[str]:
    script = (
        f"import sys, json, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def imported_anywhere(package: str) -> set[str]:
    """Every module a package's files name in an import, those inside functions too."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_serving_loads_nothing_heavy() -> None:
    loaded = loaded_by([*modules("serving"), *sorted(LIGHT)])
    assert not loaded & set(HEAVY)
    assert not any(name.split(".")[0] == "export" for name in loaded)


def test_serving_uses_only_the_light_half_of_training() -> None:
    loaded = loaded_by(modules("serving"))
    assert {name for name in loaded if name.split(".")[0] == "training"} <= LIGHT
    named = {name for name in imported_anywhere("serving") if name.split(".")[0] in HEAVY}
    assert not named


def test_training_imports_neither_export_nor_serving() -> None:
    loaded = loaded_by(modules("training"))
    assert not any(name.split(".")[0] in ("export", "serving") for name in loaded)
    assert not any(name.split(".")[0] in ("export", "serving") for name in imported_anywhere("training"))


def test_scoring_a_file_loads_nothing_heavy(sample_model: Path, sample: Path) -> None:
    script = (
        "import sys; from serving.cli import evaluate; "
        f"evaluate.main([{str(sample_model)!r}, {str(sample)!r}, '--json'], standalone_mode=False); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", ["training", "export", "serving"])
def test_every_module_says_why_it_exists(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
