"""Arrays of an `.npz` that are too large for memory: unpacked once, then read from disk row by row.

Flows in: a path. Flows out: read-only memory maps over `.npy` files in a cache folder, keyed by the file's
identity. MedMNIST at 224 pixels is 13-16 GB; resident memory stays flat because pages are given back.
"""

import hashlib
import mmap
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xtrain.errors import OutputError
from xtrain.files import replacing


def uncompressed_bytes(path: Path) -> int:
    """Return the bytes that the arrays of an `.npz` take in memory, from its directory alone."""
    with zipfile.ZipFile(path) as archive:
        return sum(item.file_size for item in archive.infolist())


def unpack(path: Path, cache: Path) -> Mapping[str, NDArray[Any]]:
    """Memory-map the arrays of an `.npz`, unpacking each into `cache` the first time.

    Raises:
        OutputError: the cache has not enough space or cannot be written.
        ValueError, zipfile.BadZipFile, OSError: the file is damaged.
    """
    folder, arrays = _unpacked(path, cache), {}
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if Path(item.filename).name != item.filename:
                raise ValueError(f"the member {item.filename!r} is no plain array name")
            target = folder / item.filename
            if not target.is_file():
                _require_space(cache, item.file_size)
                with replacing(target) as temporary, archive.open(item) as packed, open(temporary, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
            arrays[item.filename.removesuffix(".npy")] = np.load(target, mmap_mode="r", allow_pickle=False)
    return arrays


def digest_once(path: Path, cache: Path, digest: Callable[[Path], str]) -> str:
    """Return the digest of an `.npz` that is unpacked in `cache`, computed the first time: 13 GB take half a minute.

    Raises:
        OutputError: the cache cannot be written.
    """
    kept = _unpacked(path, cache) / "digest"
    if not kept.is_file():
        computed = digest(path)
        with replacing(kept) as temporary:
            temporary.write_text(computed)
    return kept.read_text()


def _unpacked(path: Path, cache: Path) -> Path:
    """Return the folder that a file is unpacked to; a file that changes gets another."""
    status = path.stat()
    identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return cache / "unpacked" / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def array_file(target: Path, shape: tuple[int, ...], fill: Callable[[NDArray[np.uint8]], None]) -> NDArray[np.uint8]:
    """Memory-map a uint8 array, which `fill` writes the first time.

    Raises:
        OutputError: the folder has not enough space or cannot be written.
    """
    if not target.is_file():
        _require_space(target.parent, int(np.prod(shape, dtype=np.int64)))
        with replacing(target) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            fill(array)
            array.flush()
            del array
    mapped: NDArray[np.uint8] = np.load(target, mmap_mode="r", allow_pickle=False)
    return mapped


class MappedRows:
    """Rows of several memory maps in any order, behaving like one uint8 array (N, H, W, C) that is read when sliced.

    Each read copies its rows and gives the pages back, so that resident memory does not grow with what was read.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64]) -> None:
        self.parts, self.rows = list(parts), rows
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape: tuple[int, ...] = (len(rows), *parts[0].shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        out = np.empty((len(self.rows[key]), *self.shape[1:]), np.uint8)
        self.read(key, out)
        return out

    def read(self, key: Any, out: NDArray[np.uint8]) -> None:
        """Copy the rows of an index, such as an array of row numbers, into `out` (N, H, W, C); for threads too."""
        rows = self.rows[key]
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False):
            here = np.flatnonzero((rows >= start) & (rows < stop))
            for position in here:
                out[position] = part[rows[position] - start]
            if len(here):
                release(part)


def release(array: NDArray[Any]) -> None:
    """Give a memory map's pages back to the system; they are read again when needed."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _require_space(cache: Path, needed: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise OutputError(
            f"{cache}: {needed / 1e9:.1f} GB are needed to unpack the data set and {free / 1e9:.1f} GB are free; "
            "name another folder with --data-dir"
        )


def available_memory() -> int:
    """Return the bytes of host memory that can be used now, within the limits of a container where there are any."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, limit - used)
    except (OSError, ValueError, StopIteration):
        pass  # no Linux, or no limit
    return available
