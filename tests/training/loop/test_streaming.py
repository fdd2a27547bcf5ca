"""Images that do not fit are read from disk: the same bits, in flat memory."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, Command, train
from training.loop.streaming import SLOTS, Reader
from training.prepare import device_level_counts
from training.runs import checkpoint
from xtrain.data import catalog, datasets
from xtrain.data.catalog import LoadOptions
from xtrain.data.datasets import read_npz
from xtrain.data.mapping import MappedRows, available_memory, uncompressed_bytes
from xtrain.data.splits import divide, select
from xtrain.data.statistics import level_counts
from xtrain.errors import DataError, OutputError


@pytest.mark.parametrize("protocol", ["official", "pooled"])
def test_streaming_gives_the_same_weights(sample: Path, tmp_path: Path, protocol: str) -> None:
    options = ["simplecnn", "--data", sample, "--epochs", 1, "--protocol", protocol, "--data-dir", tmp_path / "cache"]
    runs = [train(tmp_path / flag, *options, flag) for flag in ("--stream", "--no-stream")]
    first, second = (checkpoint.load(run) for run in runs)
    assert first.digest == second.digest and first.spec.mean == second.spec.mean
    assert first.data.split_digest == second.data.split_digest


def test_mapped_rows_are_the_rows(sample: Path, tmp_path: Path) -> None:
    memory, mapped = read_npz(sample), read_npz(sample, unpack_to=tmp_path)
    assert mapped.md5 == memory.md5
    for protocol in ("official", "pooled"):
        divided = divide(memory, protocol)
        ours, theirs = select(mapped, divided, "train"), select(memory, divided, "train")
        assert isinstance(ours.images, MappedRows) and ours.images.shape == theirs.images.shape
        assert (ours.images[:] == theirs.images).all() and (ours.labels == theirs.labels).all()
        assert (ours.images[np.array([5, 2, 5])] == theirs.images[[5, 2, 5]]).all()


def test_unpacked_once(sample: Path, tmp_path: Path) -> None:
    read_npz(sample, unpack_to=tmp_path)
    files = sorted(tmp_path.rglob("*.npy"))
    times = [path.stat().st_mtime_ns for path in files]
    read_npz(sample, unpack_to=tmp_path)
    with np.load(sample) as arrays:
        assert len(files) == len(arrays.files)
    assert [path.stat().st_mtime_ns for path in files] == times


def test_the_digest_is_computed_once(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_npz(sample, unpack_to=tmp_path).md5
    monkeypatch.setattr(datasets, "file_digest", None)
    assert read_npz(sample, unpack_to=tmp_path).md5 == first


def test_levels_counted_on_a_device_are_the_same(sample: Path, tmp_path: Path) -> None:
    images = read_npz(sample, unpack_to=tmp_path).splits["train"].images
    assert (device_level_counts(images, torch.device("cpu")) == level_counts(images)).all()


def test_a_reader_serves_more_batches_than_it_has_buffers(sample: Path, tmp_path: Path) -> None:
    images = read_npz(sample, unpack_to=tmp_path).splits["train"].images
    shards = list(torch.randperm(len(images)).split(37))
    assert len(shards) > 2 * SLOTS
    for rows, part in zip(shards, Reader(images, torch.device("cpu")).batches(shards), strict=True):
        assert (part.numpy() == images[rows.numpy()]).all()


def test_a_reader_tells_of_a_file_that_cannot_be_read(sample: Path) -> None:
    images = read_npz(sample).splits["train"].images
    with pytest.raises(IndexError):
        list(Reader(images, torch.device("cpu")).batches([torch.tensor([0]), torch.tensor([10**6])]))


def test_the_memory_available_decides(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uncompressed_bytes(sample) == pytest.approx(1302 * (28 * 28 * 3 + 1), rel=0.01)
    assert available_memory() > 100_000_000
    monkeypatch.setattr(catalog, "available_memory", lambda: 3_000_000)
    dataset = catalog.load(str(sample), LoadOptions(data_dir=tmp_path))
    assert isinstance(dataset.splits["train"].images, MappedRows)
    monkeypatch.undo()
    assert not isinstance(catalog.load(str(sample), LoadOptions(data_dir=tmp_path)).splits["train"].images, MappedRows)


def test_a_member_outside_the_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside.npy", b"x")
    with pytest.raises(DataError, match="no plain array name"):
        read_npz(path, unpack_to=tmp_path / "cache")
    assert not list(tmp_path.rglob("outside*"))


def test_no_space_to_unpack(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xtrain.data import mapping

    usage = mapping.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(mapping.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match="are needed to unpack"):
        read_npz(sample, unpack_to=tmp_path / "cache")


BUDGET = 96_000_000

MEASURE = """
import json, sys
from pathlib import Path

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

from training.cli import train
small, large, folder = sys.argv[1:]
options = ["--epochs", "1", "--image-size", "28", "--batch-size", "8", "--data-dir", folder, "--stream"]
# The first run pays for libraries and buffers; what the second adds is what a larger set costs.
train.main(["simplecnn-v1", "--data", small, "-o", folder + "/a", *options], standalone_mode=False)
Path("/proc/self/clear_refs").write_text("5")  # reset the peak
before = field("VmRSS")
train.main(["simplecnn-v1", "--data", large, "-o", folder + "/b", *options], standalone_mode=False)
print(json.dumps({"before": before, "peak": field("VmHWM")}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_stays_under_a_quarter_of_the_set(data_dir: Path, tmp_path: Path) -> None:
    """A set four times the budget trains with resident memory growing by less than the budget."""
    from PIL import Image

    tiles = sorted((data_dir / "tiles").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in tiles])
    labels = np.array([json.loads((data_dir / "tiles" / "labels.json").read_text())["labels"][p.name] for p in tiles])
    labels = np.unique(labels, return_inverse=True)[1].astype(np.uint8)

    def save(name: str, rows: int) -> Path:
        chosen = np.arange(rows) % len(tiles)
        path = tmp_path / name
        few = slice(0, len(tiles))
        np.savez(
            path,
            train_images=pixels[chosen],
            train_labels=labels[chosen],
            val_images=pixels[few],
            val_labels=labels[few],
        )
        return path

    small, large = save("small.npz", 64), save("large.npz", 4 * BUDGET // pixels[0].nbytes + 1)
    assert uncompressed_bytes(large) > 4 * BUDGET
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert memory["peak"] - memory["before"] < BUDGET, memory


def test_exports_and_scores_of_a_streamed_run(command: Command, sample: Path, tmp_path: Path) -> None:
    run = train(
        tmp_path / "run", "simplecnn-v1", "--data", sample, "--epochs", 1, "--stream", "--data-dir", tmp_path / "c"
    )  # fmt: skip
    model = tmp_path / "m.onnx"
    assert command("xexport", run, "-o", model).code == 0
    assert command("xeval", model, sample).code == 0
