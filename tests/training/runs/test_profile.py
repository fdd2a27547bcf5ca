"""`--profile`: a trace that a browser opens, and a training that it does not change."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Command, make_npz, train
from tests.training.loop.test_distributed import torchrun
from tests.training.loop.test_trainer import history
from tests.training.runs.test_resume import digests, subprocess_free_resume
from training.runs import folder as run_folder
from training.runs.profile import STEPS


def names(run: Path) -> Counter[str]:
    """How often each event is in the trace."""
    trace = json.loads((run / run_folder.TRACE).read_text())
    return Counter(event["name"] for event in trace["traceEvents"] if "name" in event)


def test_the_steps_operators_are_in_the_trace_and_the_weights_are_the_same(sample: Path, tmp_path: Path) -> None:
    options = ["simplecnn", "--data", sample, "--epochs", 2]
    plain, profiled = train(tmp_path / "plain", *options), train(tmp_path / "profiled", *options, "--profile")
    assert digests(plain) == digests(profiled)
    events = names(profiled)
    assert events["Optimizer.step#Adam.step"] == STEPS, "850 rows in batches of 32 are 27 steps"
    assert events["aten::convolution_backward"] >= STEPS and events["aten::native_batch_norm"] >= STEPS
    assert not (plain / run_folder.TRACE).exists() and not list(profiled.glob(".*"))
    # A run that takes the folder's place has no use for the trace of the one before.
    train(profiled, *options, "--overwrite")
    assert not (profiled / run_folder.TRACE).exists()


@pytest.mark.parametrize(
    ("words", "steps"),
    [(["--batch-size", 36], 1), (["--batch-size", 4], 9), (["--batch-size", 4, "--max-steps", 2], 2)],
)
def test_a_short_epoch_gives_what_it_has(tiny: Path, tmp_path: Path, words: list[object], steps: int) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 2, "--profile", *words)
    assert names(run)["Optimizer.step#Adam.step"] == steps


def test_a_resumed_run_is_profiled_in_the_first_epoch_it_trains(tiny: Path, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "simplecnn", "--data", tiny, "--epochs", 2)
    parts = train(tmp_path / "parts", "simplecnn", "--data", tiny, "--epochs", 1)
    subprocess_free_resume("simplecnn", parts, "--epochs", 2, "--profile")
    assert names(parts)["Optimizer.step#Adam.step"] == 2 and digests(parts) == digests(whole)


def test_a_trace_that_cannot_be_written_is_a_warning(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1)
    (run / run_folder.TRACE).mkdir()  # in the place of the file
    result = command("xtrain", "simplecnn", "--resume", run, "--epochs", 2, "--profile", "--quiet")
    assert result.code == 0 and "best epoch" in result.out and len(history(run)) == 2
    # The profiler's own lines are silenced in a process that loads it with --profile, not in one that has used it.
    (warning,) = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: --profile: no trace (cannot write ")


def test_only_the_first_of_two_processes_writes(tmp_path: Path) -> None:
    data = make_npz(tmp_path / "tiny.npz")
    done = torchrun(2, "simplecnn-v1", "--data", data, "--epochs", 1, "--profile", "-o", tmp_path / "run")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert names(tmp_path / "run")["Optimizer.step#Adam.step"] == 2
