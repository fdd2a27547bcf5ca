"""Going on after a stop, a kill in the middle of an epoch, and a kill in the middle of a checkpoint's write."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, train
from tests.training.loop.test_trainer import history
from training.runs import checkpoint
from training.runs import folder as run_folder

OPTIONS = {
    "adam": ["simplecnn"],
    "ema and rmsprop": ["simplecnn", "--ema", "0.9", "--optimizer", "rmsprop"],
    "cosine and nadam": ["simplecnn", "--scheduler", "cosine", "--optimizer", "nadam"],
    "onecycle and sgd": ["simplecnn", "--scheduler", "onecycle", "--optimizer", "sgd"],
    "resnet": ["resnet18", "--image-size", "32", "--no-pretrained"],
}


def digests(run: Path) -> tuple[str, str]:
    return checkpoint.load(run / run_folder.BEST).digest, checkpoint.load(run / run_folder.LAST).digest


def untimed(run: Path) -> list[dict[str, float]]:
    measured = ("seconds", "train_seconds", "images_per_second", "peak_memory_bytes")
    return [{key: value for key, value in entry.items() if key not in measured} for entry in history(run)]


def start(*arguments: object, program: str = "from training.cli import main; main()") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def kill_after(process: subprocess.Popen[str], epochs: int, delay: float) -> None:
    """SIGKILL once `epochs` epochs were reported and `delay` seconds have passed."""
    assert process.stderr is not None
    try:
        for _ in range(epochs):
            line = process.stderr.readline()
            assert line.startswith("epoch "), line
        time.sleep(delay)
    finally:
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL
        process.stderr.close()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_four_epochs_are_two_and_two(sample: Path, tmp_path: Path, options: list[str]) -> None:
    """Bit for bit: weights, figures and learning rates; the stop falls after two of four planned epochs."""
    whole = train(tmp_path / "whole", *options, "--data", sample, "--epochs", 4)
    parts = tmp_path / "parts"
    stop_after(2, parts, *options, "--data", sample, "--epochs", 4)
    assert len(history(parts)) == 2
    subprocess_free_resume(options[0], parts)
    assert digests(parts) == digests(whole) and untimed(parts) == untimed(whole)


def stop_after(epochs: int, run: Path, *options: object) -> None:
    """Train in this process and interrupt it as Ctrl-C would, when that many epochs are written."""
    from training.run import Interrupted
    from training.runs.progress import LineProgress

    honest = LineProgress.epoch

    def interrupt(self: LineProgress, entry: dict[str, float], *rest: object) -> None:
        honest(self, entry, *rest)  # type: ignore[arg-type]
        if entry["epoch"] == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LineProgress, "epoch", interrupt)
        train(run, *options)


def subprocess_free_resume(model: str, run: Path, *more: object) -> None:
    from training.cli import train as xtrain

    xtrain.main([model, "--resume", str(run), *map(str, more)], standalone_mode=False)


def test_kill_anywhere(tiny: Path, tmp_path: Path) -> None:
    """Killed three times at arbitrary moments of epochs and writes, resumed each time, the end is the same."""
    options = ["simplecnn", "--data", str(tiny), "--epochs", "24", "--patience", "24"]
    whole = train(tmp_path / "whole", *options)
    parts = tmp_path / "parts"
    process = start(*options, "-o", parts)
    for delay in (0.0, 0.013, 0.05):
        kill_after(process, 3, delay)
        process = start("simplecnn", "--resume", parts)
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0, errors
    assert digests(parts) == digests(whole) and untimed(parts) == untimed(whole)
    assert not list(parts.glob(".*"))


def test_kill_in_the_middle_of_a_write(sample: Path, tmp_path: Path) -> None:
    """A file-size limit whose signal is left deadly ends the process inside the write of last.pt."""
    whole = train(tmp_path / "whole", "simplecnn", "--data", sample, "--epochs", 4)
    parts = train(tmp_path / "parts", "simplecnn", "--data", sample, "--epochs", 2)
    before = digests(parts)
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)); "
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        "from training.cli import main; main()"
    )
    process = start("simplecnn", "--resume", parts, "--epochs", 4, program=program)
    assert process.stderr is not None
    process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == -signal.SIGXFSZ
    assert list(parts.glob(".last.pt.*.tmp")), "it died while writing"
    assert digests(parts) == before
    subprocess_free_resume("simplecnn", parts, "--epochs", 4)
    assert digests(parts) == digests(whole) and untimed(parts) == untimed(whole) and not list(parts.glob(".*"))


def test_death_between_last_and_best(sample: Path, tmp_path: Path) -> None:
    """`last.pt` names a best epoch whose `best.pt` was never written: it is made from `last.pt`."""
    whole = train(tmp_path / "whole", "simplecnn", "--data", sample, "--epochs", 3, "--patience", 10)
    parts = train(tmp_path / "parts", "simplecnn", "--data", sample, "--epochs", 2, "--patience", 10)
    assert checkpoint.load(parts).epoch == 2, "the second epoch is the better one in this run"
    earlier = train(tmp_path / "earlier", "simplecnn", "--data", sample, "--epochs", 1, "--patience", 10)
    (parts / run_folder.BEST).write_bytes((earlier / run_folder.BEST).read_bytes())
    subprocess_free_resume("simplecnn", parts, "--epochs", 3)
    assert digests(parts) == digests(whole)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet18", "--resume", "{run}"], 1, "holds a simplecnn, not a resnet18"),
        (["simplecnn", "--resume", "{run}"], 2, "complete after 2 epochs; raise --epochs"),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "--lr", "0.5"], 2, "--lr cannot change"),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "--patience", "8"], 2, "use at least --patience 10"),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "--seed", "0"], 2, "--seed cannot change"),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "--no-balance"], 2, "--balance cannot change"),
        (
            ["simplecnn", "--resume", "{run}", "--epochs", "3", "--no-dropout"],
            2,
            "--dropout cannot change in a resumed run, which has True",
        ),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "-o", "x"], 2, "leave -o out"),
        (["simplecnn", "--resume", "{run}", "--epochs", "3", "--data", "{tiny}"], 1, "name that file with --data"),
        (["simplecnn", "--resume", "nowhere"], 1, "holds no last.pt"),
    ],
)
def test_what_cannot_go_on(
    command: Command, sample_run: Path, tiny: Path, arguments: list[str], code: int, message: str
) -> None:
    before = {path.name: path.read_bytes() for path in sample_run.iterdir()}
    result = command("xtrain", *[word.format(run=sample_run, tiny=tiny) for word in arguments])
    assert result.code == code and message in result.error
    assert {path.name: path.read_bytes() for path in sample_run.iterdir()} == before


def test_a_planned_schedule_cannot_be_stretched(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 2, "--scheduler", "cosine")
    result = command("xtrain", "simplecnn", "--resume", run, "--epochs", 4)
    assert result.code == 2 and "planned over 2 epochs" in result.error
