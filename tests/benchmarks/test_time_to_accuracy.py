"""Time to accuracy: three sides train, every finished run is kept, and another command adds to the same file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.time_to_accuracy import Point, Run, cells, targets
from tests.conftest import ROOT


def command(sample: Path, file: Path, sides: str) -> subprocess.CompletedProcess[str]:
    words = ["--data", str(sample), "--sides", sides, "--seeds", "22", "--rows", "64", "--epochs", "2"]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.time_to_accuracy", *words, "--workers", "0", "--device", "cpu"]
        + ["--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_runs_add_up_in_one_file(sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    first = command(sample, file, "paper")
    assert first.returncode == 0, first.stderr
    second = command(sample, file, "per-image,paper,fast")
    assert second.returncode == 0, second.stderr
    assert "paper, seed 22: taken from" in second.stderr and "per-image, seed 22: epoch 1" in second.stderr
    stored = json.loads(file.read_text())
    runs = {values["side"]: Run.from_json(values) for values in stored["runs"]}
    assert set(runs) == {"paper", "per-image", "fast"}
    assert len(runs["paper"].curve) == 2 and runs["paper"].ended == "recipe", "the target is its best accuracy"
    assert runs["per-image"].config["precision"] == "fp32" and runs["fast"].config["recipe"] == "fast"
    for run in runs.values():
        seconds = [point.seconds for point in run.curve]
        assert seconds == sorted(seconds) and seconds[0] > 0 and run.start_up > 0
    assert runs["paper"].reached(runs["paper"].best) is not None
    rows = stored["tables"][0]["rows"]
    assert [row[1] for row in rows] == ["`per-image`", "`paper`", "`fast`"]
    assert {row[0] for row in rows} == {f"{100 * runs['paper'].best:.2f} %, official"}


def run(side: str, seed: int, *curve: tuple[float, float]) -> Run:
    points = tuple(Point(epoch, *point) for epoch, point in enumerate(curve, start=1))
    config: dict[str, Any] = {"model": "simplecnn"}
    return Run("mnist", side, seed, 1.0, config, 2.0, points, "recipe")


def test_a_run_that_does_not_get_there_is_counted_and_left_out() -> None:
    base = [run("per-image", seed, (0.98, 60.0), (0.995, 120.0)) for seed in (1, 2)]
    ours = [run("fast", 1, (0.994, 8.0)), run("fast", 2, (0.99, 8.0), (0.9939, 16.0))]
    assert targets("mnist", base) == [0.994, 0.9955]
    shown = cells(0.994, ours, base)
    assert shown[:4] == ["1 2", "1", "8.0, 1 of 2 not reached", "15.0"]
    assert cells(0.9955, ours, base)[1:4] == ["-", "2 of 2 not reached", "-"]
    # Neither seed's per-image run gets to 99.6 %, in 120 s: whoever does in 10 s is more than 12 times faster.
    assert cells(0.996, [run("fast", 1, (0.997, 10.0))], base)[3] == "more than 12.0"
    assert cells(0.996, base, base)[3] == "-"
    assert targets(
        "sample.npz", [run("paper", seed, (best, 1.0)) for seed, best in ((1, 0.7), (2, 0.9), (3, 0.8))]
    ) == [pytest.approx(0.8)]


def test_bad_input_is_one_line_and_loses_nothing(sample: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for content in ((ROOT / "docs" / "results" / "training.json").read_text(), '{"a": 1}', "hello", "[]"):
        other.write_text(content)
        refused = command(sample, other, "fast")
        assert refused.returncode == 2 and other.read_text() == content
        assert refused.stderr == f"error: --json {other}: a file that this command did not write; name another\n"
    absent = command(tmp_path / "absent.npz", tmp_path / "times.json", "fast")
    assert absent.returncode == 1 and absent.stderr.startswith(f"error: {tmp_path / 'absent.npz'}: no such file")
    assert absent.stderr.count("\n") == 1
