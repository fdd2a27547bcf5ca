"""What is made of an exported file: options and places that cannot go together, refused before anything is written."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Command

SPACING = ("--spacing-um", "4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--onnxruntime-web", "ort"), "--onnxruntime-web is for --web; add --web FOLDER"),
        (("--triton", "x", "--wsinfer", "x/m", *SPACING), "--wsinfer x/m and --triton x/m are the same place"),
        (("--triton", "x", "--wsinfer", "x", *SPACING), "--triton x/m lies inside --wsinfer x"),
        (("--triton", "x", "--wsinfer", "x/m/1", *SPACING), "--wsinfer x/m/1 lies inside --triton x/m"),
        (("--web", "x", "--wsinfer", "./y/../x/", *SPACING), "--wsinfer y/../x and --web x are the same place"),
        (("--web", "m.md"), "m.md and --web m.md are the same place"),
        (("--web", "m.onnx/site"), "--web m.onnx/site lies inside m.onnx"),
        (("--wsinfer", "m.onnx.sha256", *SPACING), "m.onnx.sha256 and --wsinfer m.onnx.sha256 are the same place"),
        (("-o", "site/m.onnx", "--web", "site"), "site/m.onnx lies inside --web site"),
        (("-o", "x/m/1/m.onnx", "--triton", "x"), "x/m/1/m.onnx lies inside --triton x/m"),
    ],
)
def test_of_runs(
    sample_run: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    output = () if "-o" in options else ("-o", "m.onnx")
    ended = command("xexport", sample_run, *output, *options)
    assert ended.code == 2 and message in ended.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("m.onnx", ("--triton", "x", "--onnxruntime-web", "ort"), "--onnxruntime-web is for --web"),
        ("m.onnx", ("--triton", "x", "--web", "x"), "--triton x/sample lies inside --web x"),
        ("m.onnx", ("--triton", "x", "--web", "x/sample"), "are the same place"),
        ("m.onnx", ("--web", "m.onnx.sig"), "m.onnx.sig and --web m.onnx.sig are the same place"),
        ("site/m.onnx", ("--web", "site", "--overwrite"), "site/m.onnx lies inside --web site"),
        ("x/sample/1/m.onnx", ("--triton", "x", "--overwrite"), "lies inside --triton x/sample"),
    ],
)
def test_of_an_exported_file(
    sample_model: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(model).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(sample_model, model)
    ended = command("xexport", model, *options)
    assert ended.code == 2 and message in ended.error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / model]


def test_a_model_may_lie_in_the_repository_beside_its_folder(
    sample_model: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(sample_model, "other.onnx")
    assert command("xexport", "other.onnx", "--triton", ".").code == 0
    assert Path("sample/1/model.onnx").read_bytes() == Path("other.onnx").read_bytes()
