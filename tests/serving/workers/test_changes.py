"""A change that another worker cannot make, or that a killed worker left half-way."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.model.repository import Entry, ModelRepository
from serving.scheduling.models import Models
from serving.settings import Settings
from serving.workers.changes import Changes
from serving.workers.peers import Peers
from tests.conftest import ROOT
from xtrain.errors import ModelFileError

# Worker 2 of two, in a process of its own: follows until it is killed, with so much room for models.
OTHER = """
import asyncio, sys
from pathlib import Path
from tests.serving.workers.test_changes import changes_of
shared, folder, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
changes = changes_of(shared, folder, 2, room)
changes.begin()
print("ready", flush=True)
asyncio.run(changes.follow())
"""
# Worker 2 proposes a change and is killed before it is decided.
DYING = """
import asyncio, os, sys
from pathlib import Path
from tests.serving.workers.test_changes import changes_of, other_entry
changes = changes_of(Path(sys.argv[1]), Path(sys.argv[2]), 2)

async def die(*_):
    await asyncio.sleep(2)  # until the other has prepared it
    os.kill(os.getpid(), 9)

async def main():
    changes.begin()
    changes._all_prepared = die
    async with changes.exclusive() as served:
        await changes.make(served.loading([other_entry(changes.models)]))

asyncio.run(main())
"""


def changes_of(shared: Path, folder: Path, index: int, room: int = 2**30) -> Changes:
    """The changes of a worker that was started with one model."""
    settings = Settings(model=folder / "sample.onnx", device="cpu", model_memory=room)
    models = Models(settings, ModelRepository(folder), lambda *_: None)
    models.start(settings.model, print)
    return Changes(models, Peers(shared, index, 2))


def other_entry(models: Models) -> Entry:
    """The copy, whose card has the name of the other."""
    assert models.repository is not None
    found = models.repository.entry("other.onnx")
    return Entry("other", "1", found.path, found.place)


def start(code: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def folder(sample_model: Path, tmp_path: Path) -> Path:
    """The model and a copy under another name."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("sample", "other"):
        (models / f"{name}.onnx").write_bytes(sample_model.read_bytes())
    (tmp_path / "shared").mkdir()
    return models


@pytest.mark.parametrize("room", ["enough", "for one"])
def test_all_or_none(folder: Path, tmp_path: Path, room: str) -> None:
    size = (folder / "sample.onnx").stat().st_size
    other = start(OTHER, tmp_path / "shared", folder, 10 * size if room == "enough" else int(1.5 * size))
    try:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        changes = changes_of(tmp_path / "shared", folder, 1)
        changes.begin()

        async def change() -> None:
            async with changes.exclusive() as served:
                await changes.make(served.loading([other_entry(changes.models)]))
            await changes.models.close()

        if room == "enough":
            asyncio.run(change())
            assert set(changes.models.served().entries) == {("sample", "1"), ("other", "1")}
            (told,) = changes.peers.others() if changes.peers else ()
            assert told["follows"] == 2 and changes.workers == [1, 2]
        else:
            with pytest.raises(ModelFileError, match=r"worker 2: .*--model-memory.*nothing was changed in any worker"):
                asyncio.run(change())
            assert set(changes.models.served().entries) == {("sample", "1")}
            assert changes.peers is not None and changes.peers.state()["number"] == 1
            assert not (tmp_path / "shared" / "proposal.json").exists()
    finally:
        other.kill()
        other.communicate()


def test_a_worker_killed_before_its_change_was_decided(folder: Path, tmp_path: Path) -> None:
    changes = changes_of(tmp_path / "shared", folder, 1)
    changes.begin()
    loaded = list[int]()
    make = changes.models.make
    changes.models.make = lambda entry: loaded.append(1) or make(entry)  # type: ignore[method-assign, func-returns-value]

    async def live() -> None:
        following = asyncio.create_task(changes.follow())
        dying = start(DYING, tmp_path / "shared", folder)
        await asyncio.to_thread(dying.communicate, timeout=60)
        assert dying.returncode == -9
        assert loaded, "the proposal was never seen"
        assert (tmp_path / "shared" / "proposal.json").exists()
        async with changes.exclusive() as served:  # its lock is free
            assert set(served.entries) == {("sample", "1")}
            await changes.make(served.loading([other_entry(changes.models)]))
        following.cancel()
        await changes.models.close()

    asyncio.run(live())
    assert not (tmp_path / "shared" / "proposal.json").exists()
    assert changes.workers == [1] and os.listdir(tmp_path / "shared").count("state.json") == 1
