"""A decoder process: pictures in on stdin, their pixels out on stdout, one part after another.

It is no child of `multiprocessing`, which would run the user's script once more in each process. A file that ends the
process ends nothing else: `pool` starts another one. `python -m scoring.decoding.worker`, by `pool`.
"""

import json
import os
import pickle
import signal
import struct
import sys
from typing import BinaryIO

import numpy as np
from PIL import Image

from scoring.sources.source import Picture, Shape
from xtrain.errors import XtrainError

if sys.platform != "win32":
    import resource

LENGTHS = struct.Struct("<QQ")  # of the JSON head and of the pixels that follow it
LENGTH = struct.Struct("<Q")  # of a request
NICENESS = 5  # the model comes first: it waits for all its threads, a decoder for nobody
READY = b"+"  # is written once the process can decode
MEMORY = 2 * 1024**3  # bytes beyond what the process has at its start; a picture of 25 megapixels takes 0.4


def main() -> None:
    """Serve until stdin ends."""
    requests, responses = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak between the responses
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; this process ends when stdin does
    Image.init()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    _limit_memory()
    responses.write(READY)
    responses.flush()
    while (request := _receive(requests)) is not None:
        pictures, shape = request
        pixels = np.zeros((len(pictures), *shape), np.uint8)
        errors = {}
        for index, picture in enumerate(pictures):
            try:
                pixels[index] = picture.pixels(shape)
            except XtrainError as error:
                errors[str(index)] = str(error)
            except MemoryError:
                errors[str(index)] = "decoding it takes too much memory"
            except Exception as error:  # a library's own; one picture must not end the others
                errors[str(index)] = f"{type(error).__name__}: {error}"
        head = json.dumps(errors).encode()
        try:
            responses.write(LENGTHS.pack(len(head), pixels.nbytes) + head)
            responses.write(pixels.data)
            responses.flush()
        except BrokenPipeError:  # whoever asked was killed
            os._exit(1)


def _receive(stream: BinaryIO) -> tuple[list[Picture], Shape] | None:
    """Return the next pictures and the shape that they are brought to; None at the end."""
    length = stream.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    received: tuple[list[Picture], Shape] = pickle.loads(stream.read(*LENGTH.unpack(length)))
    return received


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    try:
        pages = int(open("/proc/self/statm").read().split()[0])
        bound = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (bound, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):  # no /proc, or a system that does not limit address space
        pass


if __name__ == "__main__":
    main()
