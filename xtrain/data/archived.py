"""Rows of an array inside an `.npz`, decompressed as they are read in order, so that memory does not grow with them.

Flows in: a path and the name of an array. Flows out: what slices like an array of images, for one reader that goes
forward; it may go back at the price of decompressing from the start.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xtrain.errors import DataError

DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class ArchivedRows:
    """One array of an `.npz` by its header; a slice of it reads those rows.

    Attributes:
        dtype: as the header says.
        shape: likewise, or as it was changed with `reshaped`.
        checksum: CRC-32 of the array's file, from the directory of the archive.
    """

    def __init__(self, path: Path, key: str, rows_shape: Sequence[int] | None = None) -> None:
        """Read the array's header.

        Args:
            path: of the `.npz`.
            key: name of the array.
            rows_shape: of each row; None is the header's.

        Raises:
            ValueError: an array in Fortran order, whose rows do not follow each other, or one of Python objects.
            OSError, zipfile.BadZipFile, KeyError: no such archive or array.
        """
        self._path, self._key = path, key
        with zipfile.ZipFile(path) as archive:
            self.checksum = archive.getinfo(f"{key}.npy").CRC
            with archive.open(f"{key}.npy") as file:
                shape, fortran_order, self.dtype = _header(file)
                self._start = file.tell()
        if fortran_order and len(shape) > 1:
            raise ValueError("its rows do not follow each other (Fortran order)")
        if self.dtype.hasobject:
            raise ValueError("it holds pickled objects")
        self.shape: tuple[int, ...] = shape if rows_shape is None else (*shape[:1], *rows_shape)
        self._file: IO[bytes] | None = None
        self._next = 0  # the row at which the open file stands

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def reshaped(self, rows_shape: Sequence[int]) -> "ArchivedRows":
        """Return the same rows in another shape of as many numbers."""
        return ArchivedRows(self._path, self._key, rows_shape)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return the rows of a slice without a step, as an array of their own.

        Raises:
            DataError: the archive is damaged or was changed.
            IndexError: anything else than such a slice.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise IndexError("rows of an archive are read in order: by slices without a step")
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        if not out.nbytes:
            return out
        try:
            file = self._open(start)
            view = memoryview(out.reshape(-1).view(np.uint8).data)
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])  # type: ignore[attr-defined]
                if not count:
                    raise EOFError("it ends before its last row")
                done += count
        except DAMAGED as error:
            self.close()
            raise DataError(f"{self._path}: not a readable .npz ({error}); fetch or save it again") from error
        self._next = stop
        return out

    def close(self) -> None:
        """Close the file; the next slice opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._next = None, 0

    def _open(self, row: int) -> IO[bytes]:
        """Return the file at the start of a row."""
        if self._file is None:
            self._file = zipfile.ZipFile(self._path).open(f"{self._key}.npy")
            self._next = -1
        if row != self._next:
            size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
            self._file.seek(self._start + row * size)
        return self._file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and dtype of an `.npy` file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"the array has version {version[0]}.{version[1]} of numpy's format")
    return header
