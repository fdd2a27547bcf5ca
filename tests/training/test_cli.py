"""Bad input to `xtrain`: one line, the right exit code, nothing half-written, earlier results untouched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, Command, make_npz
from training.runs import folder as run_folder

XTRAIN = [sys.executable, "-c", "from training.cli import main; main()"]


def test_help_names_every_model_and_is_instant(command: Command) -> None:
    from training.models.registry import ARCHITECTURES

    result = command("xtrain", "--help")
    assert result.code == 0 and all(name in " ".join(result.out.split()) for name in ARCHITECTURES)
    script = "import sys, training.cli; print([m for m in ('torch', 'matplotlib', 'PIL', 'onnx') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


def test_a_run_prints_its_result(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 2, "-o", run)
    assert result.code == 0
    assert "official protocol" in result.out and "95 % interval" in result.out and str(run) in result.out
    assert [line.split()[1] for line in result.err.splitlines()] == ["1/2", "2/2"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet15"], 2, "no model is called 'resnet15'; did you mean resnet152"),
        (["simplecnn", "--data", "pathmist"], 2, "did you mean pathmnist"),
        (["simplecnn", "--data", "absent.npz"], 1, "absent.npz: no such file"),
        (["simplecnn", "--data", "{tiny}", "--image-size", "4"], 2, "from 8 pixels, not 4"),
        (["xception", "--data", "{tiny}", "--image-size", "64"], 2, "use --image-size 96 or larger"),
        (["simplecnn", "--data", "{tiny}", "--optimizer", "adm"], 2, "'adm'"),
        (["simplecnn", "--data", "{tiny}", "--dropuot"], 2, "--dropuot"),
        (["simplecnn", "--data", "{tiny}", "--pretrained"], 2, "no published weights"),
        (["resnet18", "--data", "{tiny}", "--no-dropout"], 2, "no switch --dropout"),
        ([], 2, "MODEL"),
    ],
)
def test_usage(command: Command, tiny: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    run = tmp_path / "run"
    result = command("xtrain", *[word.format(tiny=tiny) for word in arguments], "-o", run)
    assert result.code == code and message in result.error
    assert not run.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here, so --device cuda works")
def test_cuda_where_there_is_none(command: Command, tiny: Path, tmp_path: Path) -> None:
    result = command("xtrain", "simplecnn", "--data", tiny, "--device", "cuda", "-o", tmp_path / "run")
    assert result.code == 2 and "--device cpu" in result.error


def test_a_class_without_training_rows(command: Command, tmp_path: Path) -> None:
    path = make_npz(tmp_path / "gap.npz", train_labels=np.repeat([0, 2], 18).astype(np.uint8))
    run = tmp_path / "run"
    result = command("xtrain", "simplecnn", "--data", path, "--epochs", 1, "-o", run)
    assert result.code == 1 and "class 1 (1) of 3 has no training row" in result.error and not run.exists()
    assert (
        command("xtrain", "simplecnn", "--data", path, "--epochs", 1, "-o", run, "--no-balance", "--classes", 3).code
        == 0
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split(command: Command, tmp_path: Path, split: str) -> None:
    nothing = {f"{split}_images": np.zeros((0, 28, 28), np.uint8), f"{split}_labels": np.zeros(0, np.uint8)}
    path = make_npz(tmp_path / "empty.npz", class_names=np.array(["a", "b", "c"]), **nothing)
    result = command("xtrain", "simplecnn", "--data", path, "-o", tmp_path / "run")
    assert result.code == 1 and f"the {split} split (official) is empty" in result.error


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_earlier_run_is_kept_without_overwrite(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", run).code == 0
    before = contents(run)
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", run)
    assert result.code == 1 and "add --overwrite" in result.error and contents(run) == before
    # A replacement that fails on its input leaves the run as it was, too.
    result = command("xtrain", "simplecnn", "--data", tmp_path / "no.npz", "-o", run, "--overwrite")
    assert result.code == 1 and contents(run) == before
    assert command("xtrain", "simplecnn-v1", "--data", tiny, "--epochs", 1, "-o", run, "--overwrite").code == 0
    assert contents(run) != before


def test_a_file_in_the_place_of_the_folder(command: Command, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    result = command("xtrain", "simplecnn", "--data", tiny, "-o", place, "--overwrite")
    assert result.code == 1 and "is a file" in result.error and place.read_text() == "mine"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interruption_keeps_whole_epochs(sample: Path, tmp_path: Path, sent: signal.Signals) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*XTRAIN, "simplecnn", "--data", str(sample), "--epochs", "500", "--patience", "500", "-o", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline() for _ in range(2)]
        time.sleep(0.1)
        process.send_signal(sent)
        rest = process.stderr.read().splitlines()
        assert process.wait(timeout=30) == 1
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert all(line.startswith("epoch ") for line in lines) and rest[-1].startswith("error: interrupted in epoch")
    assert "Traceback" not in "".join(rest) and f"are kept in {run}" in rest[-1]
    from training.runs import checkpoint

    assert checkpoint.load(run).epoch >= 1 and checkpoint.load(run / run_folder.LAST).epoch >= 2
    assert not list(run.glob(".*"))


def test_list_is_a_command_of_its_own(command: Command) -> None:
    assert "simplecnn" in command("xtrain", "--debug", "list", "models").out
    result = command("xtrain", "list", "modls")
    assert result.code == 2 and "see xtrain list --help" in result.error
    assert "see xtrain --help" in command("xtrain", "simplecnn", "--epoch", 1).error


def test_a_job_scripts_rank_silences_nobody(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    assert "no such file" in command("xeval", tmp_path / "m.onnx", "digits").error


def test_a_dry_run_of_a_resumed_run_is_refused(command: Command, sample_run: Path) -> None:
    result = command("xtrain", "simplecnn", "--resume", sample_run, "--dry-run")
    assert result.code == 2 and "leave --resume out" in result.error


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_reader_holds(command: Command, seed: int) -> None:
    assert "--seed is" in command("xtrain", "simplecnn", "--data", "digits", "--seed", seed).error
