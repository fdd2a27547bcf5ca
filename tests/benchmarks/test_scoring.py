"""The scoring benchmark measures its three sides on the same images, and the command's own memory."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_it_prints_ratios_and_memory(sample: Path) -> None:
    words = ["--data", str(sample), "--case", "simplecnn", "--rows", "600", "8", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scoring", *words, "--memory-rows", "2000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^\| simplecnn, 28 px, (\w+) \| (.*?) \| (.*?) \| (.*?) \| ([\d.]+) .*?\| ([\d.]+) ", done.stdout, re.M
    )
    assert [row[0] for row in rows] == ["npz", "folder", "tar", "parquet"]
    for _, *cells in rows:
        raw, ours, script, to_raw, to_script = (float(cell.replace(",", "")) for cell in cells)
        assert abs(to_raw - ours / raw) < 0.02 and abs(to_script - ours / script) < 0.1
    memory = re.search(r"^\| 2,000 \| (\d+) \|", done.stdout, re.M)
    assert memory is not None and 50 < int(memory[1]) < 1000
