"""`xpredict`: pictures from a file of weights and from a real server, good and bad ones."""

import csv
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export.export import export_runs
from export.options import ExportOptions
from serving.client import Client
from serving.model.predictor import Predictor
from tests.conftest import Command
from tests.fileserver import serving
from tests.serving.server import process_of, running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    path = tmp_path_factory.mktemp("predict") / "explained.onnx"
    export_runs([sample_run], path, ExportOptions(explain=True))
    return path


@pytest.fixture
def tiles(data_dir: Path, tmp_path: Path) -> list[Path]:
    names = sorted(path.name for path in (data_dir / "tiles").iterdir() if path.suffix in (".png", ".tif"))[:3]
    return [Path(shutil.copy(data_dir / "tiles" / name, tmp_path / name)) for name in names]


def test_classes_of_files(command: Command, model: Path, tiles: list[Path]) -> None:
    result = command("xpredict", model, *tiles)
    predictor = Predictor(model)
    values = predictor.predict(list(tiles))
    expected = [
        f"{path}  {predictor.card.classes[row.argmax()]} {row.max():.4f}"
        for path, row in zip(tiles, values, strict=True)
    ]
    assert result.code == 0 and result.out.splitlines() == expected
    lines = command("xpredict", model, *tiles, "--json").out.splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 3 and sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert list(first["probabilities"])[0] == first["label"]
    assert len(re.findall(r" \d\.\d{4}", command("xpredict", model, tiles[0], "--top", 3).out)) == 3


def test_heatmaps(command: Command, model: Path, sample_model: Path, tiles: list[Path], tmp_path: Path) -> None:
    result = command("xpredict", model, *tiles, "--heatmap", tmp_path / "maps")
    assert result.code == 0
    for path in tiles:
        with Image.open(tmp_path / "maps" / f"{path.stem}-heatmap.png") as drawn, Image.open(path) as plain:
            assert drawn.size == plain.size and np.abs(np.asarray(drawn).astype(int) - np.asarray(plain)).max() > 0
    assert "export it with --explain" in command("xpredict", sample_model, tiles[0], "--heatmap", tmp_path).error
    same = tmp_path / "other" / tiles[0].name
    same.parent.mkdir()
    shutil.copy(tiles[0], same)
    assert "both become" in command("xpredict", model, tiles[0], same, "--heatmap", tmp_path).error


def test_a_bad_file_ends_nothing(command: Command, model: Path, tiles: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = command("xpredict", model, broken, tiles[0], tmp_path / "absent.png")
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["error", "error"]
    assert str(broken) in result.err and "absent.png: No such file" in result.err


def test_a_server_answers_the_same(
    command: Command, model: Path, tiles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    with running(model, tmp_path, "--tokens", str(tokens)) as client:
        url = str(client.base_url)
        assert "put a token into XTRAIN_TOKEN" in command("xpredict", url, tiles[0]).error
        monkeypatch.setenv("XTRAIN_TOKEN", "secret\n")
        assert command("xpredict", url, *tiles).out == command("xpredict", model, *tiles).out
        result = command("xpredict", url, tiles[0], "--heatmap", tmp_path / "maps")
        assert result.code == 0 and (tmp_path / "maps" / f"{tiles[0].stem}-heatmap.png").is_file()
        (tmp_path / "bad.png").write_bytes(b"no picture")
        assert "bad.png: " in command("xpredict", url, tmp_path / "bad.png").error
    assert "start xserve" in command("xpredict", url, tiles[0]).error


def test_heatmaps_replace_nothing_of_the_users(
    command: Command, model: Path, tiles: list[Path], tmp_path: Path
) -> None:
    mine = tmp_path / f"{tiles[0].stem}-heatmap.png"
    shutil.copy(tiles[1], mine)
    before = mine.read_bytes()
    result = command("xpredict", model, tiles[0], mine, "--heatmap", tmp_path, "--overwrite")
    assert result.code == 1 and "is read by this command" in result.error and mine.read_bytes() == before
    assert "--overwrite" in command("xpredict", model, tiles[0], "--heatmap", tmp_path).error
    assert mine.read_bytes() == before
    assert command("xpredict", model, tiles[0], "--heatmap", tmp_path, "--overwrite").code == 0
    assert mine.read_bytes() != before
    assert "takes a folder" in command("xpredict", model, tiles[0], "--heatmap", tiles[1]).error
    assert "leave it out" in command("xpredict", model, tiles[0], "--overwrite").error


def test_top_holds_for_json_too(command: Command, model: Path, tiles: list[Path]) -> None:
    assert len(json.loads(command("xpredict", model, tiles[0], "--json", "--top", 2).out)["probabilities"]) == 2


@pytest.mark.parametrize("content", ["<html>", "[1]", "{}"])
def test_another_server_is_told(command: Command, tiles: list[Path], tmp_path: Path, content: str) -> None:
    (tmp_path / "site" / "v1").mkdir(parents=True)
    (tmp_path / "site" / "v1" / "model").write_text(content)
    with serving(tmp_path / "site") as address:
        assert "not the answer of xserve; check the address" in command("xpredict", address, tiles[0]).error


def test_csv_in_the_cards_order_with_formulas_as_text(
    command: Command, model: Path, tiles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiles[0], tmp_path / "=1+1,.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = command("xpredict", model, "broken.png", "=1+1,.png", "--csv")
    predictor = Predictor(model)
    head, broken, row = csv.reader(result.out.splitlines())
    assert result.code == 1 and head == [
        "FILE",
        "LABEL",
        "PROBABILITY",
        "ERROR",
        *(f"P({x})" for x in predictor.card.classes),
    ]
    assert broken[:3] == ["broken.png", "", ""] and "no image" in broken[3] and len(broken) == len(head)
    values = predictor.predict(tmp_path / "=1+1,.png")[0]
    assert row[0] == "'=1+1,.png" and row[1] == predictor.card.classes[values.argmax()]
    np.testing.assert_allclose([float(value) for value in row[4:]], values, atol=1e-6)
    assert command("xpredict", model, "broken.png", "--csv", "--json").code == 2
    assert command("xpredict", model, "broken.png", "--csv", "--top", "2").code == 2


def test_a_model_that_is_replaced_meanwhile_is_an_error(
    command: Command, model: Path, tiles: list[Path], tmp_path: Path
) -> None:
    """Its classes may be others, and answers would get the names of the card that was read before."""
    place = Path(shutil.copy(model, tmp_path / "m.onnx"))
    with process_of(place, tmp_path) as (client, process):
        card = client.get("/v1/model").json()
        with Client(str(client.base_url)) as seen:
            assert seen.predict(tiles[0])[0].sha256 == card["sha256"]
        changed = onnx.load(place)
        changed.producer_name = "another file"
        onnx.save(changed, tmp_path / "new")
        (tmp_path / "new").replace(place)
        original = Client.stream

        def replaced(self: Client, *arguments: Any, **options: Any) -> Iterator[Any]:
            os.kill(process.pid, signal.SIGHUP)
            while client.get("/v1/model").json()["sha256"] == card["sha256"]:
                time.sleep(0.05)
            return original(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Client, "stream", replaced)
            assert "replaced meanwhile" in command("xpredict", str(client.base_url), tiles[0]).error
