"""Decodes the parts of a shard ahead of the model, in processes, and gives them back in order."""

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scoring.decoding.worker import LENGTH, LENGTHS, READY
from scoring.sources.source import Part, Picture, Shape
from serving.model.devices import usable_cores
from serving.model.training_rows import TrainingRows
from xtrain.data.digests import row_digests
from xtrain.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
_PATHS = (str(ROOT), os.environ.get("PYTHONPATH"))
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
ENDED = "it ended the process that decoded it"


@dataclass(frozen=True)
class Pixels:
    """A decoded part.

    Attributes:
        images: (n, H, W, C) uint8; black where the picture could not be read.
        names: of the images, if they have any.
        errors: what is wrong, by position.
        seen: how many of them the model was trained on, by their pixels; 0 where that is not recorded.
    """

    images: NDArray[np.uint8]
    names: Sequence[str] | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    seen: int = 0


class DecoderPool:
    """Decoder processes, each started with its first part; a context manager, which ends them."""

    def __init__(self, decoders: int | None, shape: Shape, training_rows: TrainingRows | None = None) -> None:
        """Make a pool without a process.

        Args:
            decoders: number of processes, of which at most two a core are started; None for one a core.
            shape: (H, W, C) that pictures are brought to.
            training_rows: of the model, which are counted among the images.
        """
        count = min(decoders or usable_cores(), 2 * usable_cores())
        self._shape, self._count, self._training_rows = shape, count, training_rows
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._decoders = [_Decoder(shape) for _ in range(count)]
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for decoder in self._decoders:
            decoder.end()
        self._threads.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)

    def decode(self, parts: Iterator[Part]) -> Iterator[Pixels]:
        """Yield the parts in order, decoded; so many are read ahead that no decoder waits.

        Raises:
            DataError: of the source.
        """
        ahead: deque[Future[Pixels]] = deque()
        end = object()
        reading = self._reader.submit(next, parts, end)
        while True:
            part = reading.result()
            if isinstance(part, Part):
                reading = self._reader.submit(next, parts, end)
                ahead.append(self._submit(part))
            elif not ahead:
                return
            if len(ahead) > self._count or not isinstance(part, Part):
                yield ahead.popleft().result()

    def _submit(self, part: Part) -> "Future[Pixels]":
        if isinstance(part.images, np.ndarray):
            return self._threads.submit(self._counted, part.images, part.names)
        return self._threads.submit(self._decode, list(part.images))

    def _decode(self, pictures: list[Picture]) -> Pixels:
        decoder = self._idle.get()
        try:
            images, errors = decoder.decode(pictures)
        finally:
            self._idle.put(decoder)
        return self._counted(images, [picture.name for picture in pictures], errors)

    def _counted(
        self, images: NDArray[np.uint8], names: Sequence[str] | None, errors: Mapping[int, str] | None = None
    ) -> Pixels:
        seen = 0
        if self._training_rows is not None:
            read = np.delete(images, list(errors), axis=0) if errors else images
            seen = int(self._training_rows.contains(row_digests(read)).sum())
        return Pixels(images, names, errors or {}, seen)


class _Decoder:
    """One process; it starts with its first part, and again after a picture has ended it."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._lock = threading.Lock()  # of starting and ending: a thread may start the process that another ends

    def decode(self, pictures: list[Picture]) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Return the pixels and what is wrong with which picture.

        A part that ends the process is halved until the picture that does it is alone.
        """
        try:
            return self._exchange(pictures)
        except (OSError, EOFError):
            if self._ended:
                raise
            self._stop()
        if len(pictures) == 1:
            return np.zeros((1, *self._shape), np.uint8), {0: f"{pictures[0].name}: {ENDED}; save it again"}
        half = len(pictures) // 2
        first, errors = self.decode(pictures[:half])
        second, more = self.decode(pictures[half:])
        return np.concatenate([first, second]), errors | {half + index: text for index, text in more.items()}

    def end(self) -> None:
        """End the process for good, also while it works."""
        with self._lock:
            self._ended = True
        self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        try:
            process = self._popen()
        except OSError as error:  # no fault of the picture that waits for it
            raise DataError(
                f"no decoder can be started ({error.strerror}); free memory or open files, or use fewer --decoders"
            ) from error
        assert process.stdout is not None
        if process.stdout.read(len(READY)) != READY:
            self._process = process
            self._stop()
            raise DataError("a decoder process ended at its start; free some memory, or use fewer --decoders")
        return process

    def _popen(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "scoring.decoding.worker"],  # -P: no module of the present folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C of a terminal is for the command, which ends this one
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))},
        )

    def _exchange(self, pictures: list[Picture]) -> tuple[NDArray[np.uint8], dict[int, str]]:
        with self._lock:
            if self._ended:
                raise EOFError("the pool is closed")
            if self._process is None:
                self._process = self._start()
            process = self._process
        assert process.stdin is not None and process.stdout is not None
        request = pickle.dumps((pictures, self._shape), protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.write(LENGTH.pack(len(request)))
        process.stdin.write(request)
        process.stdin.flush()
        lengths = process.stdout.read(LENGTHS.size)
        if len(lengths) < LENGTHS.size:
            raise EOFError("the decoder ended")
        head_length, length = LENGTHS.unpack(lengths)
        head = process.stdout.read(head_length)
        images = np.empty((len(pictures), *self._shape), np.uint8)
        received = process.stdout.readinto(images.reshape(-1).data)  # type: ignore[attr-defined]
        if len(head) < head_length or received != length:
            raise EOFError("the decoder ended")
        return images, {int(index): text for index, text in json.loads(head).items()}
