"""The training benchmark starts both sides, measures them in turn and prints a row."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("against", ["paper", "deterministic"])
def test_it_prints_a_ratio(sample: Path, against: str) -> None:
    words = ["--data", str(sample), "--rounds", "1", "--rows", "64", "--case", "simplecnn", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *words, "--against", against],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    row = re.search(
        r"^\| simplecnn at 28 \((?:bf16|fp32)\) \| (\d+) \| (\d+) \(\d workers\) \| (\S+) ", done.stdout, re.M
    )
    assert row is not None, done.stdout
    ours, other, ratio = (float(value) for value in row.groups())
    assert ratio == pytest.approx(ours / other, rel=0.1, abs=0.06)
