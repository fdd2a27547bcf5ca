"""The soak's short form against a real server; and that it would see what it looks for."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import Sample, judge
from benchmarks.traffic import Answer, bad, good
from export.export import export_runs
from export.options import ExportOptions
from tests.conftest import ROOT
from xtrain.images import ImageTooLarge, decode


def test_half_a_minute_of_everything(sample_run: Path, sample_model: Path, sample: Path, tmp_path: Path) -> None:
    export_runs([sample_run], tmp_path / "other.onnx", ExportOptions(calibrate=False, tta="dihedral"))
    words = [str(sample_model), str(tmp_path / "other.onnx"), "--data", str(sample), "--minutes", "0.5"]
    done = subprocess.run(
        # So short, memory is not flat to the percent; the whole form is judged by 5 %.
        [sys.executable, "-m", "benchmarks.soak", *words, "--swap-every", "5", "--flat", "0.25"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 0" in done.stdout
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", done.stdout, re.M))
    assert int(rows["a path that is not there"]) == 10_000 and int(rows["a swap"]) >= 4
    assert int(rows["a client that vanishes"]) > 50 and int(rows["a body that does not come"]) >= 3
    codes = {int(code) for code in re.findall(r"(\d{3}): \d", done.stdout)}
    assert {200, 400, 401, 404, 405, 408, 413, 415, 422, 429} <= codes <= {*range(200, 500), 503, 504}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (301, 28, 28, 3), np.uint8)


def answer(digest: str, rows: np.ndarray, status: int = 200) -> Answer:
    predictions = [{"probabilities": row.tolist()} for row in rows]
    return Answer(status, {}, json.dumps({"sha256": digest, "predictions": predictions}).encode())


def test_a_wrong_answer_is_seen(images: np.ndarray) -> None:
    truth = {digest: np.random.default_rng(1).dirichlet(np.ones(9), 301).astype(np.float32) for digest in ("a", "b")}
    truth["b"] = truth["b"][::-1]
    (five,) = (request for request in good(images, ["m"], b"") if request.name == "an array of 5")
    assert five.fault(answer("a", truth["a"][:5]), truth) is None
    assert five.fault(answer("b", truth["b"][:5]), truth) is None
    assert five.fault(Answer(429, {}, b""), truth) is None
    for wrong in (
        answer("a", truth["b"][:5]),  # the other model's
        answer("a", truth["a"][1:6]),  # another request's
        answer("a", truth["a"][:4]),
        answer("c", truth["a"][:5]),
        answer("a", truth["a"][:5], 500),
    ):
        assert five.fault(wrong, truth)
    scored = next(request for request in good(images, ["m"], b"") if request.name == "a CSV of 200")
    lines = [f"{row},{truth['a'][row].argmax()}" for row in range(200)]
    headers = {"x-model-sha256": "a"}
    assert scored.fault(Answer(200, headers, "\n".join(["ID,CLASS", *lines]).encode()), truth) is None
    lines[7] = f"7,{truth['a'][7].argmin()}"
    assert scored.fault(Answer(200, headers, "\n".join(["ID,CLASS", *lines]).encode()), truth)


def test_the_bomb_is_one(images: np.ndarray) -> None:
    (found,) = (request for request in bad(images, "root", "broken.onnx") if request.name == "a bomb")
    with pytest.raises(ImageTooLarge):
        decode(found.content.partition(b"\r\n\r\n")[2], (28, 28, 3))


def test_growth_is_seen() -> None:
    def samples(resident: list[float], metrics: int = 1000) -> list[Sample]:
        return [Sample(second, int(size * 1e6), 0, 20, metrics) for second, size in enumerate(resident)]

    flat = [100.0 + (second % 7) for second in range(120)]
    assert judge(samples(flat), 60, 0.05)[1] == []
    assert judge(samples([200.0] * 50 + flat[50:]), 60, 0.05)[1] == []  # what was before counts for nothing
    assert "not flat" in judge(samples([100 + second / 5 for second in range(120)]), 60, 0.05)[1][0]
    assert "not flat" in judge(samples([100.0] * 90 + [80.0] * 30), 60, 0.05)[1][0]
    assert "200001 bytes" in judge(samples(flat, 200_001), 60, 0.05)[1][0]
