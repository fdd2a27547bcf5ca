"""What a process may use, and what it sets for itself, in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from serving.model.devices import usable_cores as cores
from tests.conftest import ROOT

SETTLED = """
import gc, weakref
from serving import process

class Model:
    def __init__(self):
        self.itself = self  # as an engine and its batchers hold each other

process.freeze_garbage_collector()
old = Model()
gone = weakref.ref(old)
process.freeze_garbage_collector()
del old
gc.collect()
assert gone() is not None, "nothing was frozen, so this shows nothing"
process.freeze_garbage_collector()
assert gone() is None
"""

# Eight threads take 16 MB for a moment and keep a little that came after it, as bodies and their answers do.
BOUNDED = """
import sys
from concurrent.futures import ThreadPoolExecutor
import psutil
from serving import process

if sys.argv[1] == "bounded":
    process.limit_heap()

def work(_):
    found = []
    for _ in range(4):
        body = b"x" * 16_000_000
        found.append(b"y" * 5_000)
        del body
    return found

with ThreadPoolExecutor(8) as pool:
    kept = list(pool.map(work, range(64)))
print(psutil.Process().memory_info().rss)
"""


def test_cores_of_a_container(tmp_path: Path) -> None:
    everything = cores(tmp_path)
    assert everything == len(os.sched_getaffinity(0))
    for text, expected in (
        ("max 100000", everything),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("110000 100000", min(2, everything)),
        ("99900000 100000", everything),
        ("nonsense", everything),
    ):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert cores(tmp_path) == expected, text
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, expected in ((-1, everything), (100_000, 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert cores(tmp_path) == expected


def run(program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_that_was_swapped_out_goes() -> None:
    run(SETTLED)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
def test_memory_is_given_back() -> None:
    assert int(run(BOUNDED, "bounded")) < 0.5 * int(run(BOUNDED, "free"))
