"""The run folder under a full disk, a second training, a death before the report, and a place that is no run's."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Command, make_npz, train
from training.runs import checkpoint
from training.runs import folder as run_folder
from training.runs.folder import RunFolder, free_name, lock_folder, open_run
from xtrain.errors import OutputError

XTRAIN = [sys.executable, "-c", "from xtrain.entry import train; train()"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def limited(tiny: Path, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train with files of at most 1 MB: a checkpoint's write then fails as on a full disk."""
    return subprocess.run(
        [*XTRAIN, "simplecnn", "--data", str(tiny), "--epochs", "1", "-o", str(run), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        timeout=120,
    )


def test_a_full_disk_under_overwrite_keeps_the_run_before(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1)
    before = contents(run)
    done = limited(tiny, run, "--overwrite")
    assert done.returncode == 1 and "cannot write" in done.stderr and contents(run) == before


def test_a_full_disk_leaves_nothing_that_blocks_the_retry(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = limited(tiny, run)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not run.exists()
    assert "cannot write" in done.stderr and "last.pt" in done.stderr and "free some space" in done.stderr
    assert command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", run).code == 0


def test_too_little_space_is_said_before_training(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(tmp_path)
    with pytest.raises(OutputError, match=r"need 999999.00 GB and .* are free"):
        with RunFolder(tmp_path / "run").reserved(999_999 * 10**9):
            raise AssertionError("not reached")
    assert free.f_bavail > 0 and not (tmp_path / "run").exists()


def test_a_second_training_into_the_same_folder_is_refused(sample: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*XTRAIN, "simplecnn", "--data", str(sample), "--epochs", "400", "--patience", "400", "-o", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("epoch 1/")
        for option in (["-o", run, "--overwrite"], ["--resume", run]):
            result = command("xtrain", "simplecnn", "--data", sample, "--epochs", 500, *option)
            assert result.code == 1 and "another training writes into it" in result.error
        process.kill()  # the lock ends with its process
        process.wait(timeout=30)
        descriptor = lock_folder(run)
        os.close(descriptor)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_folder_is_tried_before_anything_is_trained(command: Command, tiny: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 100, "-o", "/proc/none/run")
    assert result.code == 1 and "/proc/none/run: " in result.error and "choose another -o" in result.error
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["data", "."])
def test_a_folder_of_other_files_is_no_run_folder(
    command: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", name, "--overwrite")
    assert result.code == 1 and "holds other files" in result.error
    assert "holds other files" in result.error and not (tmp_path / name / run_folder.CONFIG).exists()


def test_an_empty_path_is_wrong_usage(command: Command, tiny: Path, sample_model: Path) -> None:
    """A shell variable that is not set gives one, and it would be the present folder."""
    for words in (
        ["xtrain", "simplecnn", "--data", tiny, "-o", ""],
        ["xtrain", "simplecnn", "--resume", ""],
        ["xexport", "", "-o", "m.onnx"],
        ["xexport", "run", "-o", ""],
        ["xscore", sample_model, tiny, "-o", ""],
        ["xserve", ""],
    ):
        result = command(*words)
        assert result.code == 2 and "the path is empty" in result.error, words


def test_an_empty_folder_is_taken_and_hidden_files_do_not_matter(command: Command, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".gitkeep").touch()
    assert command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", tmp_path / "run").code == 0


@pytest.mark.parametrize("lost", [["summary.json"], ["summary.json", "curves.png", "confusion.png", "classes.png"]])
def test_a_finished_run_without_its_report_gets_it(
    command: Command, tiny: Path, tmp_path: Path, lost: list[str]
) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 2)
    before = open_run(run)
    for name in lost:
        (run / name).unlink()
    digest = checkpoint.load(run).digest
    result = command("xtrain", "simplecnn", "--resume", run)
    assert result.code == 0 and checkpoint.load(run).digest == digest
    after = open_run(run)
    assert after.summary == before.summary and after.history == before.history
    assert all((run / name).is_file() for name in run_folder.FILES)
    assert "the run is complete after 2 epochs; raise --epochs" in command("xtrain", "simplecnn", "--resume", run).error


def test_more_epochs_go_on_with_a_run_that_stopped_early(command: Command, tiny: Path, tmp_path: Path) -> None:
    options = ["--data", tiny, "--patience", 2, "--scheduler", "none", "--lr", 1e-9, "--epochs", 10]
    run = train(tmp_path / "run", "simplecnn", *options)
    stopped = open_run(run)
    assert stopped.summary is not None and stopped.summary["stopped_early"]
    assert "raise --epochs or --patience" in command("xtrain", "simplecnn", "--resume", run).error
    assert command("xtrain", "simplecnn", "--resume", run, "--epochs", 20).code == 0
    resumed = open_run(run)
    assert len(resumed.history) >= len(stopped.history) + 1 and resumed.config["epochs"] == 20


def test_default_names_are_unique(
    command: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("simplecnn-tiny-seed22", "simplecnn-tiny-seed22-2", "simplecnn-tiny-seed22-3"):
        result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1)
        assert result.code == 0 and result.out.splitlines()[-1] == f"runs/{name}"
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "--overwrite")
    assert result.out.splitlines()[-1] == "runs/simplecnn-tiny-seed22"
    assert free_name(tmp_path / "runs") == tmp_path / "runs-2" and free_name(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_first_epoch_blocks_nothing(sample: Path, tmp_path: Path, sent: int, command: Command) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*XTRAIN, "resnet18", "--no-pretrained", "--data", str(sample), "--image-size", "96", "-o", str(run)],
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        for _ in range(600):
            if run.exists():
                break
            time.sleep(0.05)
        assert run.exists()
        time.sleep(0.5)
        process.send_signal(sent)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert not run.exists() or [path.name for path in run.iterdir()] == [run_folder.LOCK]
    small = make_npz(tmp_path / "small.npz")
    assert command("xtrain", "simplecnn", "--data", small, "--epochs", 1, "-o", run).code == 0
    assert not list(run.glob(".*")) and np.isfinite(open_run(run).best.loss)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interruption_during_a_write_tells_what_is_kept(
    command: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save, calls = checkpoint.save, []

    def interrupted(path: Path, saved: checkpoint.Checkpoint) -> None:
        if path.name == run_folder.LAST:
            calls.append(path)
            if len(calls) == at:
                raise KeyboardInterrupt
        save(path, saved)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    run = tmp_path / "run"
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 4, "-o", run, "--quiet")
    if at == 1:
        assert "interrupted in epoch 1; no epoch was complete, so nothing was written" in result.error
        assert not run.exists()
    else:
        assert f"interrupted in epoch 2; epochs 1-1 are kept in {run}, the best is 1" in result.error
        assert checkpoint.load(run / run_folder.LAST).epoch == 1 and len(open_run(run).history) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_what_another_training_wrote_while_the_data_loaded_is_kept(tiny: Path, tmp_path: Path, resume: bool) -> None:
    """Both passed the check, the other one finished, and only then this one takes the lock."""
    if resume:
        train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1)
    late = RunFolder(tmp_path / "run", overwrite=not resume, resume=resume)
    train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 2, "--overwrite")
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match="another training wrote into it meanwhile"), late.reserved():
        raise AssertionError("not reached")
    assert contents(tmp_path / "run") == before
