"""Two real processes on the CPU against one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, train
from tests.serving.server import free_port
from tests.training.loop.test_trainer import history
from training.runs import checkpoint
from training.runs import folder as run_folder
from xtrain.data.datasets import read_npz
from xtrain.metrics import evaluate


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*program, "-m", "training", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_are_one(sample: Path, tmp_path: Path) -> None:
    """The same global batches, augmentation and validation; only the order of float sums differs.

    850 rows in batches of 32 leave a last batch of 18, which the processes share 9 and 9. simplecnn-v1 has no
    BatchNorm and no dropout, whose batch statistics and noise are each process's own on the CPU.
    """
    options = ["simplecnn-v1", "--data", sample, "--epochs", 2, "--precision", "fp32"]
    options += ["--optimizer", "sgd", "--lr", 0.001]
    one = train(tmp_path / "one", *options)
    done = torchrun(2, *options, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1, "one process speaks"
    assert done.stderr.count("epoch 1/2") == 1
    ours, theirs = (json.loads((run / run_folder.SUMMARY).read_text()) for run in (tmp_path / "two", one))
    assert ours["environment"]["processes"] == 2 and theirs["environment"]["processes"] == 1
    for key in ("accuracy", "precision", "recall", "f1", "rows"):
        assert ours["metrics"][key] == pytest.approx(theirs["metrics"][key], abs=1e-9), key
    # Two images whose probabilities differ in the sixth digit may change places in the ranking.
    assert ours["metrics"]["auc"] == pytest.approx(theirs["metrics"]["auc"], abs=1e-3)
    assert ours["metrics"]["confusion"] == theirs["metrics"]["confusion"]
    for mine, other in zip(history(tmp_path / "two"), history(one), strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert mine["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
    weights = checkpoint.load(tmp_path / "two").weights
    for key, value in checkpoint.load(one).weights.items():
        assert weights[key].sub(value).abs().max() < 1e-4, key


def test_accumulated_batches_of_two_are_one_batch(sample: Path, tmp_path: Path) -> None:
    """Two batches of 16 shared by two processes update as one batch of 32 does in one, clipped norm and all."""
    options = ["simplecnn-v1", "--data", sample, "--epochs", 1, "--precision", "fp32", "--augment", "none"]
    options += ["--optimizer", "sgd", "--lr", 0.01, "--clip-grad", 0.5, "--no-balance"]
    one = train(tmp_path / "one", *options, "--batch-size", 32)
    done = torchrun(2, *options, "--batch-size", 16, "--accumulate", 2, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "--batch-size 16 leaves each of 2 processes 8 images" in done.stderr
    mine, other = history(tmp_path / "two")[0], history(one)[0]
    assert mine["updates"] == other["updates"]
    assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    weights = checkpoint.load(tmp_path / "two").weights
    for key, value in checkpoint.load(one).weights.items():
        assert weights[key].sub(value).abs().max() < 1e-4, key


def test_a_killed_process_ends_the_others_with_one_line(sample: Path, tmp_path: Path) -> None:
    """Two processes without a launcher, which would end the survivor itself: it must notice alone."""
    run = tmp_path / "run"
    options = ["simplecnn-v1", "--data", sample, "--epochs", 200, "--patience", 200, "-o", run]
    port = free_port()
    ranks = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", "training", *map(str, options)],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}},
            )
        )
    try:
        await_file(run / run_folder.LAST)
        ranks[1].kill()
        _, said = ranks[0].communicate(timeout=60)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the connection to the other processes broke" in errors[0], said
    assert "Traceback" not in said
    done = torchrun(2, "simplecnn-v1", "--resume", run, "--epochs", len(history(run)) + 1)
    assert done.returncode == 0, done.stderr


def await_file(path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"no {path} after a minute")


def test_batchnorm_dropout_and_resume_with_two(tiny: Path, tmp_path: Path) -> None:
    """Not equal to one process, but to themselves: two epochs are one and one, bit for bit."""
    options = ["simplecnn", "--data", tiny]
    assert torchrun(2, *options, "--epochs", 2, "-o", tmp_path / "whole").returncode == 0
    assert torchrun(2, *options, "--epochs", 1, "-o", tmp_path / "parts").returncode == 0
    done = torchrun(2, "simplecnn", "--resume", tmp_path / "parts", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    ends = [checkpoint.load(tmp_path / run / run_folder.LAST).digest for run in ("whole", "parts")]
    assert ends[0] == ends[1]


def test_a_moving_average_of_two_is_what_was_validated(sample: Path, tmp_path: Path) -> None:
    """Each process averages BatchNorm statistics of its own shards; only the first one's may be validated."""
    options = ["simplecnn", "--data", sample, "--epochs", 2, "--ema", 0.9, "--precision", "fp32"]
    done = torchrun(2, *options, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    last = checkpoint.load(tmp_path / "run" / run_folder.LAST)
    val = read_npz(sample).splits["val"]
    assert val.labels is not None
    with torch.inference_mode():
        probabilities = last.classifier()(torch.from_numpy(val.images[:])).softmax(dim=1).numpy()
    assert last.metrics["loss"] == pytest.approx(evaluate(val.labels, probabilities).loss, rel=1e-5)


def test_too_small_a_batch(sample: Path, tmp_path: Path) -> None:
    done = torchrun(2, "simplecnn", "--data", sample, "--batch-size", 3, "-o", tmp_path / "run")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: --batch-size 3 is too small for 2 processes; use at least 4"]
    assert not (tmp_path / "run").exists()


def test_two_machines(tiny: Path, tmp_path: Path) -> None:
    """Two launchers that know of one another only by address, as on two machines; the README's command."""
    port = free_port()
    options = ["simplecnn-v1", "--data", str(tiny), "--epochs", "1", "-o", str(tmp_path / "run")]
    launchers = []
    for rank in range(2):
        program = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
        program += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
        launchers.append(
            subprocess.Popen(
                [*program, "-m", "training", *options],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    outputs = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert "best epoch 1 of 1" in outputs[0] and "best epoch" not in outputs[1]
    summary = json.loads((tmp_path / "run" / run_folder.SUMMARY).read_text())
    assert summary["environment"]["processes"] == 2
