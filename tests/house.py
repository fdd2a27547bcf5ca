"""The import rules of the house; `python -m tests.house` prints who imports whom, read from the source."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Which of our packages each may import; of serving, export sees the model, and scoring the overlay and the client too.
ALLOWED = {
    "xtrain": {"xtrain"},
    "training": {"training", "xtrain"},
    "serving": {"serving", "xtrain"},
    "export": {"export", "training", "serving.model", "xtrain"},
    "scoring": {"scoring", "serving.client", "serving.model", "serving.images", "xtrain"},
}
# The rooms of each package from the ground up: a room imports only from those before it, and from itself.
ROOMS = {
    "xtrain": ["errors", "signals", "console", "files", "metrics", "options", "images", "data", "api", "entry"],
    "training": [
        "models",
        "optimizers",
        "policies",
        "config",
        "runs",
        "loop",
        "prepare",
        "run",
        "seeds",
        "listing",
        "cli",
    ],
    "export": [
        *("options", "explain", "graph", "calibration", "inference", "plan", "weigh", "trace", "verify"),
        *("model_card", "publish", "targets", "package", "export", "cli"),
    ],
    "scoring": [
        "options",
        "solution",
        "figures",
        "readers",
        "sources",
        "decoding",
        "writers",
        "scorer",
        "score",
        "jobs",
        "evaluation",
        "report",
        "predict",
        "table",
        "progress",
        "cli",
    ],
    "serving": [
        "client",
        "model",
        "images",
        "settings",
        "process",
        "tracing",
        "scheduling",
        "workers",
        "http",
        "grpc",
        "healthcheck",
        "launch",
        "supervisor",
        "signals",
        "check",
        "service",
        "cli",
    ],
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, at_module_level: bool = False) -> Iterator[str]:
    """Every module of ours that a file names in an import, those inside functions too."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def arrows() -> Counter[tuple[str, str]]:
    """Return how many imports lead from one room to another, as (`training.loop`, `training.runs`)."""
    counted: Counter[tuple[str, str]] = Counter()
    for package in ALLOWED:
        for path in files(package):
            source = ".".join(module_name(path).split(".")[:2])
            for name in imports(path):
                target = ".".join(name.split(".")[:2])
                if name.split(".")[0] in ALLOWED and target != source:
                    counted[source, target] += 1
    return counted


def main() -> None:
    """Print the packages from the top of the house down, each room with the rooms that it imports from."""
    counted = arrows()
    for package in ("scoring", "export", "serving", "training", "xtrain"):
        print(f"{package}: may import {', '.join(sorted(ALLOWED[package] - {package})) or 'none of the others'}")
        for source in sorted({source for source, _ in counted if source.split(".")[0] == package}):
            targets = sorted(target for other, target in counted if other == source)
            print(f"  {source} -> {', '.join(targets)}")
    upward = [
        (source, target)
        for source, target in counted
        if source not in ("xtrain.api", "xtrain.entry")
        and source.split(".")[0] == target.split(".")[0]
        and source.count(".") == 1
        for rooms in [ROOMS.get(source.split(".")[0])]
        if rooms and target.count(".") == 1 and "__" not in source
        if rooms.index(target.split(".")[1]) > rooms.index(source.split(".")[1])
    ]
    print(f"{sum(counted.values())} imports between rooms, {len(upward)} of them upwards")


if __name__ == "__main__":
    main()
