"""The serving benchmark starts real servers, drives them without an error and prints their rows."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_it_prints_a_row_a_server(sample_model: Path, sample: Path) -> None:
    words = ["--data", str(sample), "--rounds", "1", "--seconds", "0.5", "--connections", "8"]
    servers = [word for name in ("xserve", "bare", "lit", "batchable") for word in ("--server", name)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", str(sample_model), *words, *servers],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| .* \| (\d+) \| \S+ \(", done.stdout, re.M)
    assert [row[0].split()[0] for row in rows] == ["xserve", "uvicorn", "LitServe", "BentoML", "onnxruntime"], (
        done.stdout
    )
    assert all(int(rate) > 0 and errors == "0" for _, rate, errors in rows), done.stdout
