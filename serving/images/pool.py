"""The pool of decoder processes: bytes in, pixels out, within a memory limit and until a deadline.

A thread that decodes cannot be stopped and shares the server's memory; a process can be killed. Small tasks always
find a decoder: large ones may take all but one.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.images.messages import LENGTHS, Outcome, Task, lead
from serving.images.pixels import UnreadableJSON, WrongPixels
from xtrain.errors import XtrainError
from xtrain.images import ImageTooLarge, UnreadableImage, UnsupportedImage

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
SMALL_MEMORY = 8 * MIB  # that a small image takes while it is decoded: two megapixels of RGB
SMALL_BYTES = 512 * 1024  # of a small task's file
PIXELS_MEMORY = 256 * MIB  # for parsing pixels as JSON: 16 MiB of text take 160 MiB
GRACE = 0.25  # seconds that a task whose client left may go on, before its process is killed and replaced
ENDED = (EOFError, OSError, RuntimeError)  # how a decoder's end shows
ERRORS: dict[str, type[XtrainError]] = {
    error.__name__: error for error in (UnreadableImage, UnsupportedImage, ImageTooLarge, UnreadableJSON, WrongPixels)
}
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class DecodingLate(Exception):
    """The deadline passed before the file was decoded."""


class NeedsMemory(Exception):
    """Decoding the image takes `needs` bytes, more than were allowed; it has `pixels`."""

    def __init__(self, needs: int, pixels: int) -> None:
        super().__init__(f"decoding takes {needs} bytes")
        self.needs, self.pixels = needs, pixels


@dataclass(frozen=True)
class Decoded:
    """An image at the model's native size (H, W, C) uint8, and what it was before.

    Attributes:
        pixels: for the model.
        thumbnail: the picture in at most the size asked for, None if none was.
        picture_pixels: number of pixels of the encoded image.
        seconds: that decoding took.
    """

    pixels: NDArray[np.uint8]
    thumbnail: Image.Image | None
    picture_pixels: int
    seconds: float


class Decoder:
    """One decoder process; it starts with its first task, and again after it ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None while none runs."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process unless it runs."""
        has_ended = self._process is not None and self._process.returncode is not None
        if self._starting is None or has_ended:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def exchange(self, task: Task, content: bytes) -> tuple[Outcome, bytes]:
        """Return the outcome of a task and its raw bytes.

        Raises:
            EOFError, OSError, RuntimeError: the process ended meanwhile; uvloop raises the latter.
        """
        await self.start()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(lead(task, len(content)))
        self._process.stdin.write(content)
        await self._process.stdin.drain()
        head, length = LENGTHS.unpack(await self._process.stdout.readexactly(LENGTHS.size))
        fields = json.loads(await self._process.stdout.readexactly(head))
        return Outcome(**fields), await self._process.stdout.readexactly(length)

    async def kill(self) -> None:
        """End the process, wherever it is."""
        if self._starting is not None:
            await self._starting
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "serving.images.decoder"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
        )


class DecoderPool:
    """So many decoder processes, each started when it is first needed."""

    def __init__(self, decoders: int) -> None:
        """Make a pool without a process.

        Args:
            decoders: at least 2, so that a small task finds one while a large one is decoded.
        """
        self.size = max(2, decoders)
        self._idle = [Decoder() for _ in range(self.size)]
        self._free, self._free_for_large = asyncio.Semaphore(self.size), asyncio.Semaphore(self.size - 1)
        self._exchanges, self._chores = set[asyncio.Future[Any]](), set[asyncio.Future[Any]]()

    async def start(self) -> None:
        """Start a first process, so that nobody waits for it."""
        await self._idle[-1].start()

    async def decode(self, content: bytes, task: Task, deadline: float) -> Decoded:
        """Return an image's pixels.

        Args:
            content: the encoded file.
            task: its kind is `image`; of more than `SMALL_MEMORY`, it is a large one.
            deadline: of `time.monotonic`, when the process is killed; the task's own seconds are not used.

        Raises:
            NeedsMemory: decoding takes more than the task allows; it was not begun.
            UnreadableImage, UnsupportedImage, ImageTooLarge: as `xtrain.images.decode_image`.
            DecodingLate: not done by the deadline.
        """
        is_large = task.memory > SMALL_MEMORY or len(content) > SMALL_BYTES
        try:
            outcome, raw = await self._run(task, content, deadline, is_large)
        except MemoryError as error:
            raise ImageTooLarge("decoding the image takes more memory than its header says; save it again") from error
        except ENDED as error:
            raise UnreadableImage("the image ended the process that decoded it; save it again") from error
        if outcome.needs:
            raise NeedsMemory(outcome.needs, outcome.picture_pixels)
        values = np.frombuffer(raw, np.uint8)
        size = task.shape[0] * task.shape[1] * task.shape[2]
        thumbnail = Image.fromarray(values[size:].reshape(outcome.thumbnail)) if outcome.thumbnail else None
        return Decoded(values[:size].reshape(task.shape), thumbnail, outcome.picture_pixels, outcome.seconds)

    async def parse_pixels(self, content: bytes, deadline: float) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Return what `serving.images.pixels.parse_pixels` does.

        Raises:
            UnreadableJSON, WrongPixels: as that.
            ImageTooLarge: more lists or numbers than memory is given for.
            DecodingLate: not done by the deadline.
        """
        task = Task("pixels", PIXELS_MEMORY, 0)
        try:
            outcome, raw = await self._run(task, content, deadline, len(content) > SMALL_BYTES)
        except (MemoryError, *ENDED) as error:
            raise ImageTooLarge("the JSON holds too many lists or numbers; send the images as binary data") from error
        array = np.frombuffer(raw, np.uint8).reshape(outcome.shape) if outcome.shape else None
        return outcome.head or {}, array

    async def close(self) -> None:
        """End all processes."""
        for exchange in self._exchanges:
            exchange.cancel()
        while self._exchanges or self._chores:
            await asyncio.wait({*self._exchanges, *self._chores})
        await asyncio.gather(*(decoder.kill() for decoder in self._idle))

    async def _run(self, task: Task, content: bytes, deadline: float, is_large: bool) -> tuple[Outcome, bytes]:
        """Run a task on the next free decoder."""
        loop = asyncio.get_running_loop()
        running = loop.create_task(self._exchange(task, content, deadline, is_large))
        self._keep(running, self._exchanges)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                outcome, raw = await asyncio.shield(running)
        except TimeoutError as error:
            running.cancel()
            raise DecodingLate("the image was not decoded in time; send a smaller one") from error
        except asyncio.CancelledError:
            # Its client left. Most tasks end by themselves sooner than another process would start.
            loop.call_later(GRACE, running.cancel)
            raise
        if outcome.error == "MemoryError":
            raise MemoryError
        if outcome.error:
            raise ERRORS[outcome.error](outcome.message)
        return outcome, raw

    async def _exchange(self, task: Task, content: bytes, deadline: float, is_large: bool) -> tuple[Outcome, bytes]:
        """Run a task once it may, and replace the process if it did not come to its end."""
        async with self._free_for_large if is_large else nullcontext(), self._free:
            try:
                return await self._exchange_once(task, content, deadline)
            except ENDED:  # perhaps while it was idle, by whatever else happens on the machine
                return await self._exchange_once(task, content, deadline)

    async def _exchange_once(self, task: Task, content: bytes, deadline: float) -> tuple[Outcome, bytes]:
        """Run a task on an idle decoder, which is replaced if it did not come to its end."""
        decoder = self._idle.pop()
        try:
            result = await decoder.exchange(replace(task, seconds=deadline - time.monotonic()), content)
        except BaseException:
            another = Decoder()
            self._idle.append(another)
            self._keep(asyncio.ensure_future(decoder.kill()), self._chores)
            self._keep(asyncio.ensure_future(another.start()), self._chores)
            raise
        self._idle.append(decoder)
        return result

    def _keep(self, task: "asyncio.Future[Any]", tasks: "set[asyncio.Future[Any]]") -> None:
        """Keep a task alive that nobody may be waiting for; asyncio would log its error."""

        def forget(ended: "asyncio.Future[Any]") -> None:
            tasks.discard(ended)
            if not ended.cancelled():
                ended.exception()

        tasks.add(task)
        task.add_done_callback(forget)
