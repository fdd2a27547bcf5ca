"""`--log`: what a logger is told, and that none of its failures reaches training.

wandb is a small package of ours in a folder of its own, imported for real in a second process; TensorBoard is itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Command
from tests.training.loop.test_trainer import history
from tests.training.runs.test_resume import digests
from training.config import LOGGERS, RunOptions
from training.runs import folder as run_folder
from training.runs.loggers import TensorBoard, make_logger

# What the real one has of what we call; `BEHAVIOUR` runs in every `log`.
WANDB = """
import json, os, sys, time

def write(**call):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps({**call, "pid": os.getpid()}) + "\\n")

class Summary:
    def update(self, values):
        write(call="summary", values=values)

class Run:
    summary = Summary()
    def log(self, figures, step):
        exec(os.environ.get("BEHAVIOUR", ""))
        write(call="log", figures=figures, step=step)
    def finish(self, exit_code):
        write(call="finish", exit_code=exit_code)

def init(**arguments):
    exec(os.environ.get("INIT", ""))
    write(call="init", **arguments)
    return Run()
"""
PROGRAM = "import warnings; warnings.simplefilter('ignore'); from training.cli import main; main()"
BRIEF = f"import training.runs.logs as logs; logs.WAIT_SECONDS = 0.5; {PROGRAM}"


class Machine:
    """A second process in which `wandb` is installed, and what it was told there."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder / "calls.jsonl"
        (folder / "packages" / "wandb").mkdir(parents=True)
        (folder / "packages" / "wandb" / "__init__.py").write_text(WANDB)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        path = os.pathsep.join([str(folder / "packages"), str(ROOT)])
        self.environment = {**kept, "PYTHONPATH": path, "CALLS": str(self.calls_file), "OMP_NUM_THREADS": "1"}

    def xtrain(self, *words: object, program: list[str] | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(program or ["-c", PROGRAM]), *map(str, words)],
            cwd=ROOT,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=240,
        )

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    def called(self, name: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["call"] == name]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_run_and_its_resumption_are_one_run_of_the_logger(machine: Machine, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    done = machine.xtrain("simplecnn", "--data", tiny, "--epochs", 2, "--log", "wandb", "--tensorboard", "-o", run)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert [call["call"] for call in machine.calls] == ["init", "log", "log", "summary", "finish"]
    (begun,) = machine.called("init")
    assert (begun["name"], begun["project"], begun["dir"]) == ("mine", "xtrain", str(run))
    assert begun["config"]["seed"] == 22 and begun["config"]["batch_norm"] is True and "switches" not in begun["config"]
    logged = [(call["step"], call["figures"]["accuracy/validation"]) for call in machine.called("log")]
    assert logged == [(entry["epoch"], entry["val_accuracy"]) for entry in history(run)]
    summary = json.loads((run / run_folder.SUMMARY).read_text())["metrics"]
    (figures,) = machine.called("summary")
    assert figures["values"]["best/accuracy"] == summary["accuracy"] and machine.calls[-1]["exit_code"] == 0
    assert list((run / run_folder.TENSORBOARD).glob("events.*"))
    assert json.loads((run / run_folder.LOGGED).read_text()) == {"wandb": begun["id"]}

    assert machine.xtrain("simplecnn", "--resume", run, "--epochs", 3, "--log", "wandb").returncode == 0
    assert [call["id"] for call in machine.called("init")] == [begun["id"]] * 2
    assert [call["step"] for call in machine.called("log")] == [1, 2, 3]
    # A new run in its place is a new run of the logger.
    again = machine.xtrain("simplecnn", "--data", tiny, "--epochs", 1, "--log", "wandb", "-o", run, "--overwrite")
    assert again.returncode == 0 and machine.called("init")[-1]["id"] != begun["id"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ({"BEHAVIOUR": "raise ValueError('no\\nroom')"}, "ValueError: no room"),
        ({"BEHAVIOUR": "sys.exit('quota')"}, "SystemExit: quota"),
        ({"INIT": "raise RuntimeError('no key')"}, "RuntimeError: no key"),
    ],
)
def test_a_logger_that_fails_is_dropped(
    machine: Machine, tiny: Path, tmp_path: Path, failure: dict[str, str], reason: str
) -> None:
    options = ["simplecnn", "--data", tiny, "--epochs", 3, "--quiet"]
    logged, plain = tmp_path / "logged", tmp_path / "plain"
    done = machine.xtrain(*options, "--log", "wandb,tensorboard", "-o", logged, **failure)
    assert done.returncode == 0 and "best epoch" in done.stdout
    assert done.stderr == f"warning: --log wandb failed ({reason}); training goes on without it\n"
    assert list((logged / run_folder.TENSORBOARD).glob("events.*")), "the other one goes on"
    assert machine.xtrain(*options, "-o", plain).returncode == 0
    assert digests(logged) == digests(plain)


def test_a_logger_that_hangs_is_left_behind(machine: Machine, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["simplecnn", "--data", tiny, "--epochs", 3, "--quiet", "--log", "wandb", "-o", run]
    done = machine.xtrain(*options, program=["-c", BRIEF], BEHAVIOUR="time.sleep(3600)")
    assert done.returncode == 0 and len(history(run)) == 3 and (run / run_folder.SUMMARY).is_file()
    assert done.stderr == "warning: --log wandb: not finished after 0.5 s; its last figures may be missing\n"


def test_a_failed_run_is_told(machine: Machine, tiny: Path, tmp_path: Path) -> None:
    """The second epoch cannot be written: its history has become a folder."""
    blocked = "os.replace(f'{run}/metrics.jsonl', f'{run}/old'); os.mkdir(f'{run}/metrics.jsonl')"
    run = tmp_path / "run"
    options = ["simplecnn", "--data", tiny, "--epochs", 500, "--patience", 500, "--log", "wandb", "-o", run]
    done = machine.xtrain(*options, INIT=f"run = arguments['dir']; {blocked}")
    assert done.returncode == 1 and "cannot write" in done.stderr.splitlines()[-1], done.stderr
    assert machine.calls[-1]["call"] == "finish" and machine.calls[-1]["exit_code"] == 1


def test_only_the_first_of_two_processes_logs(machine: Machine, tiny: Path, tmp_path: Path) -> None:
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training"]
    # torchrun refuses `--log`, which it takes for one of its own.
    options = ["simplecnn-v1", "--data", tiny, "--epochs", 2, "--logger", "wandb", "-o", tmp_path / "run"]
    done = machine.xtrain(*options, program=program)
    assert done.returncode == 0, done.stderr
    assert len(machine.called("init")) == 1 and len({call["pid"] for call in machine.calls}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--log", "nothing"], "--log is 'nothing'; choose one of: tensorboard, wandb, trackio, mlflow"),
        (["--log", "tensorboard,wandbb"], "--log is 'wandbb'; did you mean wandb"),
        (["--log", ""], "--log is ''"),
        (["--log", "tensorboard", "--log", "nobody"], "--log is 'nobody'"),
    ],
)
def test_names_that_are_none(command: Command, tiny: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = command("xtrain", "simplecnn", "--data", tiny, "-o", tmp_path / "run", *words)
    assert result.code == 2 and message in result.error and not (tmp_path / "run").exists()


def test_an_absent_package_is_said_before_anything_begins(tiny: Path, tmp_path: Path) -> None:
    """Also where a folder of wandb's own files has its name."""
    (tmp_path / "wandb").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", f"import sys; sys.modules.pop('wandb', None); {PROGRAM}", "simplecnn"]
    command = [*run, "--data", str(tiny), "--log", "wandb", "-o", "run"]
    for more in ([], ["--dry-run"]):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            pytest.skip("wandb is installed here")
        assert done.returncode == 2 and not (tmp_path / "run").exists()
        assert done.stderr == "error: --log wandb needs the package wandb: pip install wandb\n"


def test_every_name_has_its_logger() -> None:
    assert len({type(make_logger(name)) for name in LOGGERS}) == len(LOGGERS)
    assert RunOptions(log="wandb, tensorboard,wandb", tensorboard=True).loggers == ("wandb", "tensorboard")
    assert RunOptions(tensorboard=True).loggers == ("tensorboard",) and RunOptions().loggers == ()
    assert isinstance(make_logger("tensorboard"), TensorBoard)
