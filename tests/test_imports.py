"""The import rules of the house, each checked in fresh processes; no list of exceptions."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ALLOWED, ROOMS, ROOT, files, imports, module_name

HEAVY = {"torch", "torchvision", "medmnist", "sklearn", "onnx", "matplotlib", "pretrainedmodels", "pandas"}


def loaded_by(names: list[str]) -> set[str]:
    script = (
        f"import sys, json, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ALLOWED)
def test_every_package_imports_only_what_it_may(package: str) -> None:
    """In the source, everywhere but in the API and the entry points, which load the other packages when called."""
    for path in files(package):
        if path in [ROOT / "xtrain" / name for name in ("api.py", "entry.py", "__init__.py")]:
            continue
        for name in imports(path):
            if name.split(".")[0] in ALLOWED:
                allowed = any(name == entry or name.startswith(f"{entry}.") for entry in ALLOWED[package])
                assert allowed, f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("package", ALLOWED)
def test_every_package_loads_only_what_it_may(package: str) -> None:
    """In a fresh process, every module of the package imported: what follows behind the imports counts as well."""
    loaded = loaded_by([module_name(path) for path in files(package) if path.stem != "__main__"])
    roots = {entry.split(".")[0] for entry in ALLOWED[package]}
    assert {name.split(".")[0] for name in loaded} & set(ALLOWED) <= roots
    if package in ("xtrain", "serving", "scoring"):
        assert not {name.split(".")[0] for name in loaded} & HEAVY
    if package in ("export", "scoring"):
        rooms = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("serving.")}
        assert rooms <= {"serving.client", "serving.model", "serving.images"}


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_from_one_above_it(package: str) -> None:
    order = ROOMS[package]
    assert sorted(order) == sorted(
        path.stem
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.stem.startswith("__")
    ), "every room has its place"
    for path in files(package):
        parts = module_name(path).split(".")
        if len(parts) < 2 or parts[1].startswith("__") or parts[1] in ("api", "entry"):
            continue
        for name in imports(path):
            words = name.split(".")
            if words[0] == package and len(words) > 1:
                assert order.index(words[1]) <= order.index(parts[1]), f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("package", ALLOWED)
def test_no_two_modules_import_each_other(package: str) -> None:
    """Module by module, what is imported at the top: no cycle."""
    graph = {module_name(path): set(imports(path, at_module_level=True)) for path in files(package)}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name in finished or name not in graph:
            return
        for other in graph[name] - {package}:
            visit(other, (*path, name))
        finished.add(name)

    for name in graph:
        visit(name, ())


def test_importing_the_api_is_instant() -> None:
    """Neither torch, numpy nor click, and under 0.2 s beyond the interpreter's own start (the best of five)."""
    loaded = loaded_by(["xtrain"])
    assert not {"torch", "numpy", "onnxruntime", "bentoml", "click", "pydantic"} & loaded
    script = "import time; began = time.perf_counter(); import xtrain; print(time.perf_counter() - began)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT).stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.2


def test_scoring_a_file_loads_nothing_heavy(sample_model: Path, sample: Path) -> None:
    script = (
        "import sys; from scoring.cli import evaluate; "
        f"evaluate.main([{str(sample_model)!r}, {str(sample)!r}, '--json'], standalone_mode=False); "
        f"print([name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", ALLOWED)
def test_every_module_says_why_it_exists(package: str) -> None:
    for path in files(package):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("package", [*ALLOWED, "examples"])
def test_nothing_takes_more_than_six_parameters(package: str) -> None:
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                names = [entry.arg for entry in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                assert len([name for name in names if name not in ("self", "cls")]) <= 6, f"{path}: {node.name}"
