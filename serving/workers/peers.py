"""The folder that the workers of one server share.

lock            held by the worker that changes the models
proposal.json   what they are to become: written by that worker, prepared by the others, gone once decided
state.json      what they are: by the first worker that starts, then once every worker has prepared it; followed by all
worker-N.json   what worker N has prepared and follows, and what it counts
prometheus/     the counters of all, which prometheus_client writes and adds up
"""

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil

from xtrain.errors import OutputError

if os.name == "posix":
    import fcntl

FOLDER = "XTRAIN_SHARED_FOLDER"  # environment variable by which the supervisor tells it to its workers
PERIOD = 0.1  # seconds between two looks at the files
Values = dict[str, Any]


def shared_folder() -> Path:
    """Return the folder of this server; the process that asks first makes it, and removes it at its end."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="xserve-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return Path(os.environ[FOLDER])


def is_alive(pid: int) -> bool:
    """Return whether a process of ours runs; one that ended counts no more, even before its parent has noticed."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # type: ignore[no-any-return]
    except psutil.NoSuchProcess:
        return False


class Peers:
    """This worker among the others of its server.

    Attributes:
        folder: that they share.
        index: of this worker, from 1.
        count: of all workers.
    """

    def __init__(self, folder: Path, index: int, count: int) -> None:
        """Join; nothing is written before `tell`."""
        self.folder, self.index, self.count = folder, index, count
        self._told: Values = {"pid": os.getpid(), "worker": index, "prepared": "", "fault": "", "follows": 0}
        self._seen: dict[str, tuple[tuple[int, int], Values | None]] = {}

    @property
    def follows(self) -> int:
        """Number of the state that this worker answers by; 0 before it has started."""
        return int(self._told["follows"])

    @contextlib.asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Keep all other workers from changing the models; the system releases it should this process end."""
        with open(self.folder / "lock", "w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(PERIOD / 2)
            yield

    @contextlib.contextmanager
    def lock_now(self) -> Iterator[None]:
        """As `lock`, where nothing else of this process has begun; blocks."""
        with open(self.folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tell(self, **values: Any) -> None:
        """Tell the others about this worker."""
        self._told |= values
        self._write(f"worker-{self.index}.json", self._told)

    def everyone(self) -> list[Values]:
        """Return what this worker and the others that run last told."""
        return [self._told, *self.others()]

    @property
    def counters(self) -> Path:
        """The folder in which prometheus_client adds up what the workers count."""
        return self.folder / "prometheus"

    def remove_counters(self) -> None:
        """Remove what this process has counted."""
        for file in self.counters.glob(f"*_{os.getpid()}.db"):
            file.unlink(missing_ok=True)

    def has_seen(self, identifier: str) -> bool:
        """Return whether this worker has already told about a proposal."""
        return bool(self._told["prepared"] == identifier)

    def others(self) -> list[Values]:
        """Return what the other workers told that run, by their index."""
        found = []
        for index in range(1, self.count + 1):
            told = None if index == self.index else self._read(f"worker-{index}.json")
            if told is not None and is_alive(told["pid"]):
                found.append(told)
        return found

    def propose(self, identifier: str, wanted: Values) -> None:
        """Ask the others to prepare a state."""
        self._write("proposal.json", {"id": identifier, "pid": os.getpid(), "wanted": wanted})

    def proposal(self) -> Values | None:
        """Return what another worker that still runs asks for; None if nobody does."""
        found = self._read("proposal.json")
        return found if found is not None and found["pid"] != os.getpid() and is_alive(found["pid"]) else None

    def commit(self, identifier: str, wanted: Values) -> int:
        """Make a state that all have prepared the one to follow; return its number."""
        number = int(self.state()["number"]) + 1
        self._write("state.json", {"id": identifier, "number": number, "wanted": wanted})
        self.abort()
        return number

    def abort(self) -> None:
        """Withdraw a proposal."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "proposal.json").unlink()

    def state(self) -> Values:
        """Return the number of the state to follow, and the state; the number 0 before the first worker has started."""
        return self._read("state.json") or {"id": "", "number": 0, "wanted": None}

    def _read(self, name: str) -> Values | None:
        """Return what a file holds, read again only if it was replaced."""
        path = self.folder / name
        try:
            status = path.stat()
            version = status.st_mtime_ns, status.st_ino
            if self._seen.get(name, (None, None))[0] != version:
                self._seen[name] = version, json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            return None
        return self._seen[name][1]

    def _write(self, name: str, values: Values) -> None:
        """Replace a file whole; it need not survive the machine.

        Raises:
            OutputError: it cannot be written.
        """
        own = self.folder / f".{name}-{os.getpid()}"
        try:
            own.write_text(json.dumps(values), encoding="utf-8")
            own.replace(self.folder / name)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: the workers cannot tell each other ({error.strerror or error})"
            ) from error
