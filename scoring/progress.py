"""How far a long run is, on a terminal: images, images a second, and the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 0.2  # seconds between two lines


@contextmanager
def progress_line() -> Iterator[Callable[[int, int | None], None]]:
    """Yield what shows images done of all (None where nobody knows yet); where no terminal is, nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    began, shown = time.monotonic(), 0.0

    def progress(done: int, total: int | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < INTERVAL and done != total:
            return
        shown = now
        sys.stderr.write("\r\x1b[K" + describe(done, total, now - began))
        sys.stderr.flush()

    try:
        yield progress
    finally:
        if shown:
            sys.stderr.write("\n")


def describe(done: int, total: int | None, seconds: float) -> str:
    """Return the line: `4,096 of 16,384 images (25%), 2,048 images/s, 0:00:06 left`."""
    rate = done / seconds if seconds > 0 else 0.0
    parts = [f"{done:,} of {total:,} images ({done / total:.0%})" if total else f"{done:,} images"]
    if rate:
        parts.append(f"{rate:,.0f} images/s")
    if rate and total:
        left = int((total - done) / rate)
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return ", ".join(parts)
