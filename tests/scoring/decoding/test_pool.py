"""Decoder processes: in order, ahead of the reader, and a picture that ends one ends nothing else."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from scoring.decoding.pool import DecoderPool
from scoring.sources.source import Part
from serving.model.devices import usable_cores
from tests.conftest import ROOT
from xtrain.errors import DataError

SHAPE = (4, 4, 1)


class Numbered(NamedTuple):
    """A picture of one grey value; negative ones do harm to their process."""

    name: str
    value: int

    def pixels(self, shape: tuple[int, int, int]) -> np.ndarray:
        if self.value == -1:
            os.kill(os.getpid(), 9)
        if self.value == -2:
            np.empty(1 << 40, np.uint8)
        if self.value == -3:
            print("a library that prints")
            raise RuntimeError("odd")
        return np.full(shape, self.value, np.uint8)


def parts(values: list[int], size: int) -> Iterator[Part]:
    for start in range(0, len(values), size):
        yield Part([Numbered(f"p{start + i}", value) for i, value in enumerate(values[start : start + size])])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoders find this module."""
    from scoring.decoding import pool

    monkeypatch.setattr(pool, "_PATHS", (str(pool.ROOT),))


def test_parts_come_in_order() -> None:
    values = [index % 251 for index in range(1000)]
    with DecoderPool(3, SHAPE) as pool:
        decoded = list(pool.decode(parts(values, 7)))
    assert np.concatenate([part.images for part in decoded])[:, 0, 0, 0].tolist() == values
    assert [name for part in decoded for name in part.names or ()] == [f"p{index}" for index in range(1000)]
    assert not any(part.errors for part in decoded)


def test_a_picture_that_ends_its_process_is_named_and_the_others_are_decoded() -> None:
    values = list(range(40))
    values[13], values[20], values[21] = -1, -2, -3
    with DecoderPool(2, SHAPE) as pool:
        decoded = list(pool.decode(parts(values, 16)))
    read = np.concatenate([part.images for part in decoded])[:, 0, 0, 0].tolist()
    assert read == [0 if value < 0 else value for value in values]
    assert decoded[0].errors == {13: "p13: it ended the process that decoded it; save it again"}
    assert set(decoded[1].errors) == {4, 5} and "memory" in decoded[1].errors[4] and "odd" in decoded[1].errors[5]


def test_nothing_runs_on_when_the_reader_stops() -> None:
    def endless() -> Iterator[Part]:
        number = 0
        while True:
            number += 1
            yield Part([Numbered("p", number % 200)])

    with DecoderPool(2, SHAPE) as pool:
        stream = pool.decode(endless())
        for _ in range(5):
            next(stream)
        groups = {os.getpgid(child.pid) for child in psutil.Process().children()}
        assert groups and os.getpgid(0) not in groups, "Ctrl-C of a terminal does not reach them"
    assert not psutil.Process().children()


def test_a_decoder_that_cannot_start_is_no_fault_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be opened any more; or the interpreter ends at once."""
    from scoring.decoding import pool as module

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with DecoderPool(1, SHAPE) as pool:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            with pytest.raises(DataError, match="no decoder can be started"):
                list(pool.decode(parts([1, 2], 2)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with DecoderPool(1, SHAPE) as pool, pytest.raises(DataError, match="ended at its start"):
        list(pool.decode(parts([1, 2], 2)))


def test_no_more_processes_than_two_a_core() -> None:
    with DecoderPool(256, SHAPE) as pool:
        for _ in pool.decode(parts([1] * 600, 2)):
            children = len(psutil.Process().children())
    assert 1 <= children <= 2 * usable_cores()


def test_a_source_that_fails_says_so_after_what_it_gave() -> None:
    def failing() -> Iterator[Part]:
        yield from parts([1, 2, 3], 1)
        raise DataError("the tar ends here")

    with DecoderPool(1, SHAPE) as pool:
        with pytest.raises(DataError, match="the tar ends here"):
            list(pool.decode(failing()))


def test_modules_of_the_present_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    with DecoderPool(1, SHAPE) as pool:
        assert list(pool.decode(parts([5], 1)))[0].errors == {}


def test_decoders_end_with_a_process_that_is_killed() -> None:
    """In silence: they see that nobody reads."""
    script = """
import itertools, os, sys
from scoring.decoding.pool import DecoderPool
from scoring.sources.source import ImageBytes, Part
with DecoderPool(2, (2048, 2048, 3)) as pool:
    for number, _ in enumerate(pool.decode(Part([ImageBytes("a", b"")]) for _ in itertools.count())):
        if number == 3:
            os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, timeout=60, cwd=ROOT)
    assert done.returncode == -9 and done.stderr == b""  # the pipe ends when the last of them does
