"""`--seeds`: runs as single commands write them, their mean, and a command that goes on where it stopped."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, make_npz, train
from tests.training.loop.test_trainer import history
from tests.training.runs.test_resume import digests, kill_after, start, untimed
from training.runs import folder as run_folder
from training.seeds import SEEDS

OPTIONS = ["simplecnn", "--epochs", "2"]


def summary(run: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((run / run_folder.SUMMARY).read_text())
    return values


def test_each_run_is_what_a_single_command_writes(command: Command, tiny: Path, tmp_path: Path) -> None:
    """With dropout, a moving average and an optimizer that keeps a state, all of which could leak between runs."""
    options = [*OPTIONS, "--data", str(tiny), "--ema", "0.9", "--augment", "strong"]
    several = tmp_path / "several"
    result = command("xtrain", *options, "--seeds", "24,22", "-o", several)
    assert result.code == 0, result.err
    for seed in (22, 24):
        single = train(tmp_path / f"single{seed}", *options, "--seed", seed)
        assert digests(several / f"seed{seed}") == digests(single)
        assert untimed(several / f"seed{seed}") == untimed(single)
    values = json.loads((several / SEEDS).read_text())
    accuracies = [summary(several / f"seed{seed}")["metrics"]["accuracy"] for seed in (24, 22)]  # type: ignore[index]
    assert values["seeds"] == [24, 22] and [run["accuracy"] for run in values["runs"]] == accuracies
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    assert values["figures"]["accuracy"] == {"mean": pytest.approx(mean), "sd": pytest.approx(deviation)}
    assert f"validation accuracy {mean:.4f} ± {deviation:.4f}" in result.out and str(several) in result.out
    assert "seed 24, 1 of 2: new" in result.err and "seed 22, 2 of 2: new" in result.err


def test_the_same_command_goes_on(tiny: Path, tmp_path: Path, command: Command) -> None:
    """Killed in the second run: the first is kept as it is, the second resumed, the third trained."""
    options = ["simplecnn", "--epochs", "12", "--patience", "12", "--data", str(tiny)]
    whole, several = tmp_path / "whole", tmp_path / "several"
    assert command("xtrain", *options, "--seeds", "1,2,3", "-o", whole, "--quiet").code == 0
    process = start(*options, "--seeds", "1,2,3", "-o", several)
    assert process.stderr is not None
    while "seed 2, 2 of 3" not in (line := process.stderr.readline()):
        assert line, "it ended before its second run"
    kill_after(process, 3, 0.0)
    kept = (several / "seed1" / run_folder.SUMMARY).stat().st_mtime_ns
    assert not (several / "seed2" / run_folder.SUMMARY).exists()

    shown = json.loads(command("xtrain", *options, "--seeds", "1,2,3", "-o", several, "--dry-run").out)
    assert shown["seeds"] == {"1": "complete", "2": "resumed", "3": "new"} and shown["output"] == str(several)
    result = command("xtrain", *options, "--seeds", "1,2,3", "-o", several)
    assert result.code == 0 and "seed 1, 1 of 3: complete" in result.err, result.err
    assert (several / "seed1" / run_folder.SUMMARY).stat().st_mtime_ns == kept
    for seed in (1, 2, 3):
        assert digests(several / f"seed{seed}") == digests(whole / f"seed{seed}")
    assert json.loads((several / SEEDS).read_text()) == json.loads((whole / SEEDS).read_text())
    # More epochs are more of each run.
    assert command("xtrain", *options, "--seeds", "1,2", "-o", several, "--epochs", "13", "--quiet").code == 0
    assert [len(history(several / f"seed{seed}")) for seed in (1, 2, 3)] == [13, 13, 12]


def test_ctrl_c_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn", "--epochs", "500", "--patience", "500", "--data", tiny, "--seeds", "1,2", "-o"]
    process = start(*options, tmp_path / "several")
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(3)]
    assert lines[0].startswith("seed 1, 1 of 2: new") and lines[2].startswith("epoch 2")
    process.send_signal(signal.SIGINT)
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1 and error.endswith("; for all seeds, repeat the command\n"), error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "22"], "use --seed 22 for one"),
        (["--seeds", "22,22"], "named twice"),
        (["--seeds", "22,a"], "give numbers with commas"),
        (["--seeds", ""], "give numbers with commas"),
        (["--seeds", "22,-1"], "seed"),
        (["--seeds", "22,23", "--seed", "24"], "exclude each other"),
        (["--seeds", "22,23", "--lr", "-1"], "lr"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_seeds_that_cannot_be(
    command: Command, tiny: Path, tmp_path: Path, words: list[str], message: str, more: list[str]
) -> None:
    result = command("xtrain", *OPTIONS, "--data", tiny, "-o", tmp_path / "runs", *words, *more)
    assert result.code == 2 and message in result.error and len(result.error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_folders_and_runs_that_do_not_fit(command: Command, tiny: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--data", tiny, "--seeds", "1,2", "--quiet"]
    single = train(tmp_path / "single", *OPTIONS, "--data", tiny)
    result = command("xtrain", *options, "-o", single)
    assert result.code == 1 and "holds something else" in result.error
    result = command("xtrain", "simplecnn", "--resume", single, "--seeds", "1,2")
    assert result.code == 2 and "exclude each other" in result.error
    file = tmp_path / "file"
    file.write_text("")
    assert command("xtrain", *options, "-o", file).code == 1

    several = tmp_path / "several"
    assert command("xtrain", *options, "-o", several).code == 0
    before = digests(several / "seed1")
    result = command("xtrain", *options, "-o", several, "--lr", "0.01")
    assert result.code == 2 and "has lr 0.001, and this command 0.01" in result.error
    smoothed = tmp_path / "smoothed"
    assert command("xtrain", *options, "-o", smoothed, "--label-smoothing", "0.1").code == 0
    result = command("xtrain", *options, "-o", smoothed)
    assert result.code == 2 and "has label_smoothing 0.1, and this command 0.0" in result.error
    other = make_npz(tmp_path / "other.npz", rows=13)
    result = command("xtrain", *OPTIONS, "--data", other, "--seeds", "1,3", "--quiet", "-o", several)
    assert result.code == 2 and "has data" in result.error
    assert digests(several / "seed1") == before and not (several / "seed3").exists()
    # The same path, but another file: what is trained stays, and no mean of unlike things is written.
    tiny.write_bytes(other.read_bytes())
    summed = (several / SEEDS).read_text()
    result = command("xtrain", *OPTIONS, "--data", tiny, "--seeds", "1,3", "--quiet", "-o", several)
    assert result.code == 1 and "different data" in result.error and (several / SEEDS).read_text() == summed
    assert command("xtrain", *options, "-o", several, "--lr", "0.01", "--overwrite").code == 0
    assert digests(several / "seed1") != before


def test_a_configuration_with_other_seeds(command: Command, tiny: Path, tmp_path: Path) -> None:
    """Also twice: what the file says is then what the runs have."""
    single = train(tmp_path / "single", *OPTIONS, "--data", tiny, "--seed", 1, "--lr", "0.01")
    again = [
        "xtrain",
        "simplecnn",
        "--config",
        single / run_folder.CONFIG,
        "--seeds",
        "1,2",
        "-o",
        tmp_path / "several",
    ]
    for _ in range(2):
        assert command(*again, "--quiet").code == 0
        assert digests(tmp_path / "several" / "seed1") == digests(single)


def test_two_processes(tiny: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training"]
    options = ["simplecnn-v1", "--data", str(tiny), "--epochs", "2", "--seeds", "1,2", "-o", str(tmp_path / "several")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*program, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "several" / SEEDS).read_text())["runs"]) == 2
    assert done.stdout.count("mean ± standard deviation") == 1
