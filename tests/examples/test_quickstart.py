"""The notebook runs from its first cell to its last in a real kernel, and was committed with its outputs."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_it_was_committed_with_its_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert pictures == 2 and not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, which is not ours
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "pooled protocol" in text and "below 1e-5: True" in text and "ID,CLASS" in text
    assert (tmp_path / "runs" / "quickstart.onnx").is_file()
