"""Writes docs/options.md from the dataclasses that the commands take their options from: `python docs/options.py`."""

from pathlib import Path

from export.options import ExportOptions
from scoring.options import ScoringOptions
from serving.settings import Settings
from training.config import RunOptions, TrainConfig
from training.models.registry import ARCHITECTURES, SWITCHES
from xtrain.options import table

PAGE = Path(__file__).with_suffix(".md")


def page() -> str:
    """Return the Markdown page."""
    switches = []
    for name, switch in SWITCHES.items():
        models = ", ".join(entry.name for entry in ARCHITECTURES.values() if name in entry.switches)
        meaning = f"{switch.help.removesuffix('.')} (default {'on' if switch.default else 'off'})"
        switches.append(f"| `--[no-]{name.replace('_', '-')}` | {models} | {meaning} |")
    parts = [
        "# Options",
        "Made of the code by `python docs/options.py`; a test compares them. In Python the same names with underscores "
        "are arguments of `xtrain.train`, `xtrain.export`, `xtrain.evaluate` and `xtrain.score`.",
        "## `xtrain MODEL`",
        "What is computed; `config.json` of a run holds all of it. `xtrain list recipes` shows every value of every "
        "recipe with its source.",
        table(TrainConfig),
        "Switches of the networks:",
        "\n".join(["| option | models | meaning |", "|---|---|---|", *switches]),
        "Where and on what it is computed:",
        table(RunOptions),
        "## `xexport RUN... -o M.onnx`",
        table(ExportOptions),
        "## `xeval M.onnx DATA`, `xscore M.onnx DATA -o out.csv`",
        table(ScoringOptions),
        "## `xserve M.onnx`",
        "Each is also an environment variable of the service, for containers: `XTRAIN_MAX_BATCH` for `--max-batch`; "
        "the model's path is `XTRAIN_MODEL`.",
        table(Settings, without=("model",)),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
