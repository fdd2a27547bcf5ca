"""A decoder process: bytes that nobody trusts in on stdin, pixels out on stdout, one task after another.

Whatever a file does to its decoder, it does it here: the process may take so much memory and so many seconds, has no
other file open, and the server starts another one in its place. `python -m serving.images.decoder`, by `pool`.
"""

import json
import os
import signal
import sys
import time
from typing import BinaryIO

import numpy as np
from PIL import Image

from serving.images.messages import LENGTHS, Outcome, Task, lead
from serving.images.pixels import parse_pixels
from xtrain.errors import XtrainError
from xtrain.images import fit, open_image

if sys.platform != "win32":
    import resource

NICENESS = 3  # the event loop and the model come first
SLACK = 64 * 1024 * 1024  # bytes beyond a task's memory: the file itself, what libraries allocate


def main() -> None:
    """Serve until stdin ends."""
    os.closerange(3, 65_536)  # the server's listening socket and log, which uvloop leaves open
    requests, responses = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak between the responses
    # Ctrl-C of a terminal and a stop of the container reach all processes; this one ends when the server does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform != "win32":  # where a decoder has no limits but those that are checked on a file's header
        os.nice(NICENESS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    Image.init()
    while (received := _receive(requests)) is not None:
        task, content = received
        _limit(task, len(content))
        outcome, raw = _decode(task, content)
        del content, received
        responses.write(lead(outcome, len(raw)))
        responses.write(raw)
        responses.flush()
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)


def _receive(stream: BinaryIO) -> tuple[Task, bytes] | None:
    """Return the next task and its bytes; None at the end."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head, length = LENGTHS.unpack(lengths)
    fields = json.loads(stream.read(head))
    return Task(**{**fields, "shape": tuple(fields["shape"])}), stream.read(length)


def _limit(task: Task, length: int) -> None:
    """Bound the address space of this process, and its time: without a handler, SIGALRM ends it, in C code too."""
    if sys.platform == "win32":
        return
    try:
        pages = int(open("/proc/self/statm").read().split()[0])
        bound = pages * resource.getpagesize() + length + task.memory + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (bound, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):  # no /proc, or a system that does not limit address space
        pass
    signal.setitimer(signal.ITIMER_REAL, max(0.001, task.seconds))


def _decode(task: Task, content: bytes) -> tuple[Outcome, bytes]:
    """Return the outcome and the raw bytes that go with it."""
    began = time.perf_counter()
    try:
        if task.kind == "pixels":
            head, array = parse_pixels(content)
            if array is None:
                return Outcome(head=head), b""
            return Outcome(shape=array.shape, head=head), array.tobytes()
        with open_image(content) as encoded:
            if (needs := encoded.decoding_bytes()) > task.memory:
                return Outcome(picture_pixels=encoded.pixels, needs=needs), b""
            image = encoded.decode()
            raw, drawn = fit(image, task.shape).tobytes(), ()
            if task.thumbnail:
                image.thumbnail((task.thumbnail, task.thumbnail))
                picture = np.asarray(image)
                raw, drawn = raw + picture.tobytes(), picture.shape
        seconds = time.perf_counter() - began
        return Outcome("", "", task.shape, drawn, seconds, encoded.pixels), raw
    except XtrainError as error:
        return Outcome(type(error).__name__, str(error)), b""
    except MemoryError:
        return Outcome("MemoryError"), b""


if __name__ == "__main__":
    main()
