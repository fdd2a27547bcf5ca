"""What the tests share: data beside the checkout or its stand-in, commands in-process, a trained run, its export."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests import standin

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("XTRAIN_TEST_DATA", ROOT.parent / "shared" / "data"))


HAS_REAL_DATA = (DATA / "pathmnist-sample.npz").is_file()
needs_real_data = pytest.mark.skipif(
    not HAS_REAL_DATA, reason=f"needs the real files, which no package ships; none in {DATA}, set XTRAIN_TEST_DATA"
)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of real data or, on a fresh clone, of stand-ins that packages ship (see `standin`)."""
    if HAS_REAL_DATA:
        return DATA
    folder = tmp_path_factory.mktemp("standin")
    standin.write(folder)
    return folder


@pytest.fixture(scope="session")
def sample(data_dir: Path) -> Path:
    return data_dir / "pathmnist-sample.npz"


@pytest.fixture(scope="session")
def kaggle(data_dir: Path) -> Path:
    return data_dir / "pathmnist-kaggle-sample.npz"


@dataclass(frozen=True)
class Result:
    """Exit code and the two streams of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failing command leaves on stderr."""
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, f"not one line on stderr: {self.err!r}"
        assert lines[0].startswith("error: ")
        return lines[0]


Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a console script through its own entry point, in this process: `command("xtrain", "simplecnn", …)`."""
    import export.cli
    import scoring.cli
    import serving.cli
    import training.cli

    mains = {
        "xtrain": training.cli.main,
        "xexport": export.cli.main,
        "xeval": scoring.cli.evaluate_main,
        "xscore": scoring.cli.score_main,
        "xpredict": scoring.cli.predict_main,
        "xserve": serving.cli.main,
    }

    def run(name: str, *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            mains[name]()
        streams = capfd.readouterr()
        return Result(int(stop.value.code or 0), streams.out, streams.err)

    return run


def make_npz(path: Path, *, classes: int = 3, rows: int = 12, **replace: np.ndarray | None) -> Path:
    """A small well-formed file in the MedMNIST layout from real digits; `replace` swaps arrays, None drops one."""
    from xtrain.data import catalog

    digits = catalog.load("digits").splits["train"]
    assert digits.labels is not None
    chosen = np.concatenate([np.flatnonzero(digits.labels == index)[: 3 * rows] for index in range(classes)])
    chosen = chosen.reshape(classes, 3, rows)
    arrays: dict[str, np.ndarray] = {}
    for position, name in enumerate(("train", "val", "test")):
        here = chosen[:, position].ravel()
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = digits.images[here, ..., 0], digits.labels[here]
    for key, value in replace.items():
        if value is None:
            del arrays[key]
        else:
            arrays[key] = value
    np.savez(path, **arrays)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """36 training, validation and test digits of three classes."""
    return make_npz(tmp_path / "tiny.npz")


def train(output: Path, *arguments: object) -> Path:
    """Train through the command in this process and return the run folder."""
    from training.cli import train as xtrain

    xtrain.main([*map(str, arguments), "-o", str(output)], standalone_mode=False)
    return output


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """Two epochs of simplecnn on the PathMNIST sample."""
    return train(tmp_path_factory.mktemp("runs") / "simplecnn", "simplecnn", "--data", sample, "--epochs", 2)


@pytest.fixture(scope="session")
def sample_model(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    """Its export."""
    from export.export import export_runs

    path = tmp_path_factory.mktemp("models") / "sample.onnx"
    export_runs([sample_run], path)
    return path
