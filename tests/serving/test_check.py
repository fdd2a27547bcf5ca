"""`xserve MODEL --check` on this machine, on a model that is broken, and on a machine that was meant to have a GPU."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from serving import check
from serving.model import devices
from serving.model.predictor import Predictor
from serving.settings import Settings
from tests.conftest import Command


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MEASURED_SECONDS", 0.05)


def test_a_sound_model(command: Command, sample_model: Path) -> None:
    result = command("xserve", sample_model, "--check")
    assert result.code == 0, result.out + result.error
    lines = result.out.splitlines()
    assert all(line.startswith("ok") for line in lines)
    for what in ("CUDA driver", "provider", "references in runs of 64", "images a second, CPU", "memory over 20 swaps"):
        assert any(what in line for line in lines), what


def test_settings_that_could_not_serve_are_refused_first(command: Command, sample_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("one two three\n")
    for options in (
        ("--tokens", tmp_path / "tokens"),
        ("--certificate", tmp_path / "tokens"),
        ("--grpc", "nonsense"),
    ):
        result = command("xserve", sample_model, "--check", *options)
        assert result.code == 2 and not result.out, options


def test_a_folder_with_a_broken_one(command: Command, sample_model: Path, tmp_path: Path) -> None:
    for place in ("good/1", "bad/1"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(sample_model, tmp_path / place / "model.onnx")
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(sample_model.read_bytes()[:3000])
    result = command("xserve", tmp_path, "--check")
    assert result.code == 1 and "1 of the lines above say FAULT" in result.error
    (fault,) = [line for line in result.out.splitlines() if line.startswith("FAULT")]
    assert "bad 1" in fault and "not an ONNX file" in fault
    assert any("good 1: provider" in line for line in result.out.splitlines())
    (tmp_path / "empty").mkdir()
    assert command("xserve", tmp_path / "empty", "--check").code == 1


def test_a_driver_without_its_libraries_is_a_fault(sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` computes on the CPU then, which on a machine with a card nobody meant."""
    monkeypatch.setattr(check, "driver_version", lambda: "13.0")
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "missing_library", lambda device: "libcurand.so.10: cannot open")
    findings = list(check.check_machine(Settings(model=sample_model)))
    (fault,) = [finding for finding in findings if finding.fault]
    assert fault.what == "--device auto" and "libcurand.so.10" in fault.found and "xtrain[gpu]" in fault.found


def test_other_answers_than_at_export_are_a_fault(sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(sample_model, "cpu")
    plain = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda images: np.roll(plain(images), 1, axis=1))
    assert all(finding.fault for finding in check._references("m", predictor))
