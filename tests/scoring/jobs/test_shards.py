"""Shards by hand, as on a cluster: several processes, one killed, merged; gaps, duplicates and mixtures refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from scoring.jobs.job import Share
from tests.conftest import Command
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError

ROWS = ("--shard-rows", 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    for index, image in enumerate(read_npz(sample).splits["test"].images[:110]):
        Image.fromarray(image).save(folder / f"t{index}.png")
    return folder


@pytest.fixture
def parts(command: Command, sample_model: Path, folder: Path, tmp_path: Path) -> Path:
    """All six parts, computed by three processes' shares."""
    for number in (1, 2, 3):
        result = command("xscore", sample_model, folder, "-o", tmp_path / "parts", "--shard", f"{number}/3", *ROWS)
        assert result.code == 0, result.err
    assert "all 6 parts are complete" in result.out
    return tmp_path / "parts"


def test_merged_parts_are_the_bytes_of_one_process(
    command: Command, sample_model: Path, folder: Path, parts: Path, tmp_path: Path
) -> None:
    options = ("--probabilities", "--top", 3, "--id", "filename", "--threshold", 0.5)
    for suffix in ("csv", "jsonl", "parquet"):
        merged, direct = tmp_path / f"merged.{suffix}", tmp_path / f"direct.{suffix}"
        assert command("xscore", "merge", parts, "-o", merged, *options).code == 0
        assert command("xscore", sample_model, folder, "-o", direct, *ROWS, *options).code == 0
        assert merged.read_bytes() == direct.read_bytes()
    manifest = json.loads((parts / "_MANIFEST.json").read_text())
    assert (manifest["rows"], manifest["errors"], len(manifest["parts"])) == (110, 0, 6)
    assert [part["first"] for part in manifest["parts"]] == [0, 20, 40, 60, 80, 100]
    assert manifest["job"]["name"] == "sample" and {part["file"] for part in manifest["parts"]} == {
        path.name for path in parts.glob("part-*.parquet")
    }
    row = parquet.read_table(parts / manifest["parts"][1]["file"]).slice(0, 1).to_pylist()[0]
    assert (row["row"], row["name"], row["error"]) == (0, "t20.png", None) and len(row["probabilities"]) == 9


def test_what_is_there_is_not_computed_again(
    command: Command, sample_model: Path, folder: Path, parts: Path, tmp_path: Path
) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts.iterdir()}
    result = command("xscore", sample_model, folder, "-o", parts, "--shard", "1/1", *ROWS)
    assert "0 shards, 0 predictions, 6 were there already" in result.out
    missing = sorted(parts.glob("part-*.parquet"))[3]
    missing.unlink()
    (parts / "_MANIFEST.json").unlink()
    (parts / ".part-00003-x.parquet.1.tmp").write_bytes(b"of a process that was killed")
    result = command("xscore", "merge", parts, "-o", tmp_path / "out.csv")
    assert result.code == 1 and "1 of 6 parts are missing (3)" in result.error and not (tmp_path / "out.csv").exists()
    assert (
        "1 shards, 20 predictions" in command("xscore", sample_model, folder, "-o", parts, "--shard", "1/1", *ROWS).out
    )
    assert command("xscore", "merge", parts, "-o", tmp_path / "out.csv").code == 0
    after = {path.name: path.read_bytes() for path in parts.iterdir()}
    assert after == {name: content for name, (_, content) in before.items()}
    untouched = {name for name in before if name not in (missing.name, "_MANIFEST.json")}
    assert all((parts / name).stat().st_mtime_ns == before[name][0] for name in untouched)


def test_a_process_that_is_killed_loses_only_its_shard(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    """A real process, SIGKILL in the middle; three others finish, and the bytes are those of one."""
    rows = np.tile(read_npz(sample).splits["test"].images, (80, 1, 1, 1))
    np.save(tmp_path / "rows.npy", rows)
    words = ["xscore", str(sample_model), str(tmp_path / "rows.npy"), "-o", str(tmp_path / "parts")]
    arguments = [*words, "--shard", "1/1", "--shard-rows", "1024"]
    start = f"import sys; sys.argv = {arguments!r}; from xtrain.entry import score; score()"
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("parts/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    done = len(list((tmp_path / "parts").glob("part-*.parquet")))
    assert 1 <= done < 24
    shares = [
        subprocess.Popen(
            [sys.executable, "-c", start.replace("'1/1'", f"'{number}/3'")], stdout=subprocess.PIPE, text=True
        )
        for number in (1, 2, 3)
    ]
    outputs = [share.communicate(timeout=120)[0] for share in shares]
    assert all(share.returncode == 0 for share in shares)
    assert any("all 24 parts are complete" in output for output in outputs)
    assert command("xscore", "merge", tmp_path / "parts", "-o", tmp_path / "merged.csv").code == 0
    assert not list((tmp_path / "parts").glob(".*"))
    assert command(*words[:3], "-o", tmp_path / "one.csv", "--shard-rows", 1024).code == 0
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_mixtures_duplicates_and_damage_are_refused(
    command: Command, sample_model: Path, folder: Path, parts: Path, tmp_path: Path
) -> None:
    def refused() -> str:
        result = command("xscore", "merge", parts, "-o", tmp_path / "out.csv")
        assert result.code == 1 and not (tmp_path / "out.csv").exists()
        return result.error

    files = sorted(parts.glob("part-*.parquet"))
    shutil.copy(files[2], parts / "part-00002-0123456789ab.parquet")
    assert "part 2 is there twice" in refused()
    (parts / "part-00002-0123456789ab.parquet").unlink()
    other = tmp_path / "other"
    command("xscore", sample_model, folder, "-o", other, "--shard", "1/1", *ROWS, "--on-error", "skip")
    foreign = next(other.glob("part-00004-*"))
    files[4].unlink()
    shutil.copy(foreign, parts / foreign.name)
    assert "another job" in refused() and "on_error" in refused()
    (parts / foreign.name).write_bytes(foreign.read_bytes()[:-100])
    assert "damaged" in refused()
    shutil.copy(folder / "t0.png", parts / foreign.name)
    assert "no part of xscore's" in refused()
    result = command("xscore", sample_model, folder, "-o", parts, "--shard", "1/1", "--shard-rows", 30)
    assert result.code == 1 and "name a new folder" in result.error


def test_changed_pictures_are_another_job(command: Command, sample_model: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    arguments = ("xscore", sample_model, tmp_path / "copy", "-o", tmp_path / "parts", "--shard", "1/2", *ROWS)
    assert command(*arguments).code == 0
    shutil.copy(folder / "t0.png", tmp_path / "copy" / "t5.png")
    result = command(*arguments)
    assert result.code == 1 and "other data made" in result.error


def test_parts_of_other_pictures_are_not_merged(
    command: Command, sample_model: Path, folder: Path, tmp_path: Path
) -> None:
    """As many, under the same names, in one folder by mistake."""
    for name, first in (("a", 0), ("b", 50)):
        (tmp_path / name).mkdir()
        for index in range(4):
            shutil.copy(folder / f"t{first + index}.png", tmp_path / name / f"t{index}.png")
        share = ("--shard", f"{1 + (name == 'b')}/2", "--shard-rows", 2)
        assert command("xscore", sample_model, tmp_path / name, "-o", tmp_path / f"p{name}", *share).code == 0
    for path in (tmp_path / "pb").glob("part-*"):
        shutil.copy(path, tmp_path / "pa")
    result = command("xscore", "merge", tmp_path / "pa", "-o", tmp_path / "out.csv")
    assert result.code == 1 and "another job" in result.error and "source" in result.error


def test_errors_travel_with_the_parts(command: Command, sample_model: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "t33.png").write_bytes(b"broken")
    arguments = ("xscore", sample_model, tmp_path / "copy", "-o", tmp_path / "parts", "--shard", "1/1", *ROWS)
    result = command(*arguments)
    assert result.code == 1 and "t33.png" in result.error
    assert len(list((tmp_path / "parts").glob("part-*"))) == 1, "the shard before it is kept"
    shutil.rmtree(tmp_path / "parts")
    assert command(*arguments, "--on-error", "skip").code == 0
    merged = command("xscore", "merge", tmp_path / "parts", "-o", tmp_path / "out.csv")
    assert "1 of 110 images could not be read" in merged.out
    assert (
        command("xscore", sample_model, tmp_path / "copy", "-o", tmp_path / "one.csv", "--on-error", "skip").code == 0
    )
    for suffix in (".csv", ".errors.csv"):
        assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()


def test_parts_without_images_are_not_merged(command: Command, sample_model: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    arguments = ("xscore", sample_model, tmp_path / "empty.tar", "-o", tmp_path / "parts", "--shard", "1/1")
    assert command(*arguments).code == 0
    result = command("xscore", "merge", tmp_path / "parts", "-o", tmp_path / "out.csv")
    assert result.code == 1 and "hold no images" in result.error


def test_shares_divide_the_shards() -> None:
    for of in (1, 3, 7, 100):
        taken = sorted(index for number in range(1, of + 1) for index in Share.parse(f"{number}/{of}").indices(23))
        assert taken == list(range(23))
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5", ""):
        with pytest.raises(ConfigError, match="--shard"):
            Share.parse(wrong)


def test_options_of_the_merged_file_are_not_of_a_shard(
    command: Command, sample_model: Path, folder: Path, tmp_path: Path
) -> None:
    for option in (("--top", 2), ("--probabilities",), ("--id", "filename"), ("--threshold", 0.5), ("--overwrite",)):
        result = command("xscore", sample_model, folder, "-o", tmp_path / "parts", "--shard", "1/2", *option)
        assert result.code == 2 and f"{option[0]} is for the merged file" in result.error
    (tmp_path / "file").write_text("mine")
    result = command("xscore", sample_model, folder, "-o", tmp_path / "file", "--shard", "1/2")
    assert result.code == 1 and "is a file" in result.error and (tmp_path / "file").read_text() == "mine"
    for place in ("-", tmp_path / "out.csv"):
        result = command("xscore", sample_model, folder, "-o", place, "--shard", "1/2")
        assert result.code == 2 and "into a folder" in result.error
    for place in ("nothing", "."):
        result = command("xscore", "merge", tmp_path / place, "-o", tmp_path / "out.csv")
        assert result.code == 1 and "xscore --shard wrote into" in result.error
