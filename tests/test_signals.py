"""Ctrl-C and SIGTERM at several moments of every command: one line, exit code 1, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
MOMENTS = {"export": 6, "train": 6}  # their runs take long; of the others ten


def commands(sample: Path, sample_run: Path, sample_model: Path, folder: Path) -> dict[str, list[str]]:
    return {
        # MedMNIST's class names, torch, the data, one epoch, the report.
        "train": ["xtrain", "simplecnn", "--data", str(sample), "--epochs", "1", "-o", str(folder / "run")],
        "named data": ["xtrain", "list", "data"],
        "export": ["xexport", str(sample_run), "-o", str(folder / "m.onnx")],
        "score": ["xscore", str(sample_model), str(sample), "-o", str(folder / "out.csv")],
        "evaluate": ["xeval", str(sample_model), str(sample)],
    }


def catches_signals(pid: int) -> bool:
    """Whether the process has taken SIGTERM; before, Python itself is starting and none of our code runs."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_for_handlers(pid: int) -> None:
    """Wait until the process takes signals, at most four seconds."""
    for _ in range(2000):
        if catches_signals(pid):
            break
        time.sleep(0.002)


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / words[0]), *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see when signals are taken")
@pytest.mark.parametrize("name", ["train", "named data", "export", "score", "evaluate"])
def test_a_stop_at_any_moment(name: str, sample: Path, sample_run: Path, sample_model: Path, tmp_path: Path) -> None:
    # The second time, with the files in the page cache, and from the moment that is counted from below.
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        whole = start(commands(sample, sample_run, sample_model, tmp_path / attempt)[name])
        wait_for_handlers(whole.pid)
        began = time.monotonic()
        whole.communicate(timeout=120)
        seconds = time.monotonic() - began
        assert whole.returncode == 0
    stopped, moments = 0, MOMENTS.get(name, 10)
    for moment in range(moments):
        folder = tmp_path / str(moment)
        folder.mkdir()
        process = start(commands(sample, sample_run, sample_model, folder)[name])
        try:
            wait_for_handlers(process.pid)
            time.sleep(seconds * moment / moments)
            process.send_signal((signal.SIGINT, signal.SIGTERM)[moment % 2])
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in err and "Please install" not in out + err, (moment, err)
        if process.returncode == 0 or (process.returncode < 0 and out):
            continue  # it was done, and Python was just ending
        stopped += 1
        assert process.returncode == 1, (moment, process.returncode, err)
        lines = [line for line in err.splitlines() if not line.startswith(("epoch ", "note: "))]
        assert len(lines) == 1 and lines[0].startswith("error: interrupted"), (moment, err)
        left = [path for path in folder.rglob("*") if path.name.startswith(".")]
        assert not left, (moment, left)
    assert stopped >= 3  # on a busy machine some are done sooner than the one that was timed


LOST = """
import ctypes, signal, sys, time
from xtrain.signals import raise_interrupt
raise_interrupt()
called = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGTERM))
try:
    called()  # ctypes cannot pass an exception on to its C caller
    print("lost at first", flush=True)
    time.sleep(10)
except KeyboardInterrupt:
    print("raised again")
"""


@pytest.mark.parametrize("interrupts", ["taken", "ignored"])  # a shell's background jobs ignore them
def test_an_interrupt_that_c_code_loses_is_raised_again(interrupts: str) -> None:
    handler = signal.SIG_DFL if interrupts == "taken" else signal.SIG_IGN
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    assert (done.stdout, done.stderr) == ("lost at first\nraised again\n", "")
    assert time.monotonic() - began < 9  # what waited was interrupted
