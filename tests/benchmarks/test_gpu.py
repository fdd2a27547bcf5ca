"""The checks of `benchmarks.gpu` on the CPU, on a card where there is one, and from a bare checkout."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_checks, gpu_runs
from benchmarks.gpu import CHECKS, Case, attempt, choose_setting
from benchmarks.gpu_runs import FAILED, OK, SKIPPED, Result, Setting
from benchmarks.results import Report
from tests.conftest import ROOT
from training.loop import augment
from training.loop.device import choose_device
from training.loop.estimate import Estimate
from xtrain.errors import DataError

CPU = torch.device("cpu")
# What torch 2.9 and newer import, as far as it is installed; nothing that is ours to ask for.
BARE = (
    *("torch", "torchgen", "functorch", "numpy", "numpy.libs", "typing_extensions", "sympy", "mpmath", "networkx"),
    *("jinja2", "markupsafe", "filelock", "fsspec", "setuptools", "nvidia", "triton"),
)
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here; run on one with: pytest -m cuda")
pytestmark = pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")


def cases(setting: Setting, *without: str) -> list[Case]:
    return [case for name, of in CHECKS.items() if name not in without for case in of(setting)]


def named(case: Case) -> str:
    return f"{case.check}: {case.name}"


# What compiles or measures is left to the test of the command and to cards.
ON_CPU = cases(Setting(CPU, ("simplecnn", "efficientnet-lite0")), "rate", "deterministic", "compile")


@pytest.mark.parametrize("case", ON_CPU, ids=named)
def test_on_the_cpu(case: Case) -> None:
    """Without `attempt`, so that an error shows where it is."""
    result = case.call()
    only_on_a_card = case.check in ("no-waits", "memory")
    assert result.status == (SKIPPED if only_on_a_card else OK), result.text()
    assert result.reason if only_on_a_card else result.figures


@pytest.fixture
def cublas_workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` sets before the first use of CUDA; run these tests alone, or cuBLAS has chosen already."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
    yield


ON_CARD = cases(choose_setting(choose_device("auto"), None, quick=True)[0])


@pytest.mark.cuda
@needs_card
@pytest.mark.filterwarnings("default")  # what libraries say of a card is no fault of ours
@pytest.mark.usefixtures("cublas_workspace")
@pytest.mark.parametrize("case", ON_CARD if torch.cuda.is_available() else [ON_CARD[0]], ids=named)
def test_on_a_card(case: Case) -> None:
    result = case.call()
    assert result.status != FAILED, result.text()
    if result.status == SKIPPED:
        pytest.skip(result.reason)


def test_the_checks_see_what_they_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is given a fault of the kind that it is there for, and fails."""
    setting = Setting(CPU, ("simplecnn",))

    with monkeypatch.context() as faulty:  # another seed at every run
        seeds = iter(range(100))
        faulty.setattr(gpu_runs, "seed_everything", lambda _: torch.manual_seed(next(seeds)))
        assert gpu_checks.digests(setting, "simplecnn", {}).reason == "other weights: again, 2 + 2"
        assert gpu_checks.group_of_one(setting, "simplecnn").status == FAILED
    with monkeypatch.context() as faulty:  # an optimizer that is not restored
        faulty.setattr("training.loop.step.Step.load_optimizer_state", lambda *_: None)
        assert gpu_checks.digests(setting, "simplecnn", {}).reason == "other weights: 2 + 2"
    with monkeypatch.context() as faulty:  # a layer that returns images in torch's own order
        pool = torch.nn.MaxPool2d.forward
        faulty.setattr(torch.nn.MaxPool2d, "forward", lambda self, images: pool(self, images).contiguous())
        assert gpu_checks.memory_format(setting, "simplecnn").reason.startswith("not channels-last: ")
    with monkeypatch.context() as faulty:  # a colour map that is a little off where all images are mapped at once
        colour = augment.adjust_colour
        off = torch.tensor(0.01)
        faulty.setattr(augment, "adjust_colour", lambda images, map: colour(images, map) + off * (len(images) > 1))
        assert gpu_checks.augmentation(setting, "strong", "none").status == FAILED
    with monkeypatch.context() as faulty:  # a reader that mixes rows up
        faulty.setattr("training.loop.streaming.gather", lambda source, rows, out: np.copyto(out, source[rows[::-1]]))
        assert gpu_checks.streamed(setting, 100).status == FAILED
    with monkeypatch.context() as faulty:  # normalisation with other statistics
        original = gpu_checks.Classifier.forward
        faulty.setattr(gpu_checks.Classifier, "forward", lambda self, images: original(self, images) * 1.001)
        assert gpu_checks.logits(setting, "simplecnn").status == FAILED
    with monkeypatch.context() as faulty:  # an optimizer that does nothing
        faulty.setattr("training.loop.step.Step._update", lambda self: self.order.drop_gradients())
        assert gpu_checks.two_steps(setting, "simplecnn", "fp32").reason.startswith("did not move")


def test_an_error_is_a_failure_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Result:
        raise DataError("the first line\nthe second")

    some = [Case("logits", "broken", broken), Case("logits", "whole", lambda: Result(OK, figures={"a": 0.5}))]
    monkeypatch.setattr(gpu, "CHECKS", {"logits": lambda _: iter(some)})
    assert attempt(some[0]).reason.startswith("DataError: the first line (test_gpu.py:")
    assert gpu.main(["--device", "cpu", "--json", str(tmp_path / "gpu.json")]) == 1
    printed = capsys.readouterr().out
    assert "| logits | whole | ok | a 0.5 |" in printed and "1 ok, 1 failed, 0 skipped" in printed
    table = Report.read(tmp_path / "gpu.json").tables[0]
    assert [row[2] for row in table.rows] == [FAILED, OK] and "Left out for a CPU: " in table.caption
    assert gpu.main(["--device", "cpu", "--minutes", "1e-9"]) == 0
    assert "minutes are over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "logit"], "invalid choice"),
        (["--models", "resnet19"], "no model is called 'resnet19'"),
        (["--minutes", "nan"], "invalid minutes value: 'nan'"),
        (["--minutes", "-1"], "--minutes: invalid minutes value"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_it_runs_from_a_bare_checkout(tmp_path: Path) -> None:
    """Where torch, numpy and what torch needs are all that can be imported; networks of other packages are skipped."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in BARE:
        spec = None if "." in name else find_spec(name)
        origin = Path(spec.origin or next(iter(spec.submodule_search_locations or []))) if spec else None
        if origin:
            target = origin.parent if origin.name == "__init__.py" else origin
            (packages / target.name).symlink_to(target)
    site = Path(torch.__file__).parent.parent
    if (site / "numpy.libs").is_dir():
        (packages / "numpy.libs").symlink_to(site / "numpy.libs")
    metadata = Path(str(distribution("torch").locate_file(f"torch-{distribution('torch').version}.dist-info")))
    (packages / metadata.name).symlink_to(metadata)  # torch finds its process groups there
    words = [word for name in ("digests", "logits", "streamed", "group") for word in ("--only", name)]
    done = subprocess.run(
        # -S: without the packages of this Python.
        [sys.executable, "-S", "-m", "benchmarks.gpu", *words, "--quick", "--device", "cpu", "--json", "gpu.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["tables"][0]["rows"]
    by_name = {f"{check} {case}": (status, reason) for check, case, status, reason, _ in rows}
    assert by_name["logits simplecnn"][0] == by_name["digests simplecnn"][0] == OK
    assert by_name["logits resnet18"] == (SKIPPED, "needs the package torchvision, which is not installed")


def test_a_step_that_takes_more_than_planned_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of the check of memory, on figures, since only a card has a peak to measure."""
    planned = Estimate(0, 4 * 2**30, 0, 0, 0, 0)
    assert gpu_checks.memory_problem(4 * 2**30, planned.total) is None
    assert gpu_checks.memory_problem(7 * 2**30, planned.total) is not None
    assert gpu_checks.memory_problem(1 * 2**30, planned.total) is not None
