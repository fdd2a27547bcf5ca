"""Decoder processes: their limits, their end at the deadline, and that another one takes their place."""

import asyncio
import io
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks import hostile
from serving.images.messages import Task
from serving.images.pool import SMALL_MEMORY, DecoderPool, DecodingLate, NeedsMemory
from xtrain.images import ImageTooLarge, UnreadableImage, UnsupportedImage, decode

RGB = (28, 28, 3)
SMALL = Task("image", SMALL_MEMORY, 0, RGB)
MIB = 1024 * 1024


def with_pool(use: Callable[[DecoderPool], Awaitable[Any]], size: int = 2) -> Any:
    async def main() -> Any:
        pool = DecoderPool(size)
        try:
            return await use(pool)
        finally:
            await pool.close()

    children = set(psutil.Process().children())
    try:
        return asyncio.run(main())
    finally:
        assert set(psutil.Process().children()) <= children, "a closed pool leaves no process"


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def noise(side: int, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def pids(pool: DecoderPool) -> set[int]:
    return {decoder.pid for decoder in pool._idle if decoder.pid is not None}


def test_pixels_are_those_of_this_process(data_dir: Path) -> None:
    tiles = sorted((data_dir / "tiles").glob("*.png"))[:4]

    async def use(pool: DecoderPool) -> None:
        decoded = await asyncio.gather(*(pool.decode(tile.read_bytes(), SMALL, soon()) for tile in tiles))
        for tile, one in zip(tiles, decoded, strict=True):
            assert (one.pixels == decode(tile.read_bytes(), RGB)).all()
            assert one.thumbnail is None and one.picture_pixels == 224 * 224 and one.seconds > 0
        drawn = await pool.decode(tiles[0].read_bytes(), Task("image", SMALL_MEMORY, 0, RGB, thumbnail=100), soon())
        assert drawn.thumbnail is not None and drawn.thumbnail.size == (100, 100)
        assert len(pids(pool)) == 2

    with_pool(use)


def test_an_image_is_told_what_it_needs_before_it_is_decoded() -> None:
    async def use(pool: DecoderPool) -> None:
        with pytest.raises(NeedsMemory) as told:
            await pool.decode(hostile.palette_png(5000), SMALL, soon())
        assert told.value.pixels == 25_000_000 and told.value.needs == 5 * 25_000_000
        resident = [psutil.Process(pid).memory_info().rss for pid in pids(pool)]
        assert max(resident) < 80 * MIB
        decoded = await pool.decode(hostile.palette_png(5000), Task("image", told.value.needs, 0, RGB), soon())
        assert decoded.pixels.shape == RGB

    with_pool(use)


def test_errors_are_those_of_decoding() -> None:
    async def use(pool: DecoderPool) -> None:
        for content, error in (
            (b"nothing", UnreadableImage),
            (noise(100)[:-2000], UnreadableImage),
            (hostile.tiff_of_pages(20_000), UnsupportedImage),
            (hostile.tiff_of_one_tile(20_000), ImageTooLarge),
            (hostile.grey_png(6000), ImageTooLarge),
        ):
            with pytest.raises(error):
                await pool.decode(content, SMALL, soon())
        assert len(pids(pool)) == 1, "none of them ended its process"

    with_pool(use)


def test_memory_beyond_what_a_header_says_is_refused(tmp_path: Path) -> None:
    """The limit is the kernel's: an allocation beyond it fails, whatever asked for it."""

    async def use(pool: DecoderPool) -> None:
        with pytest.raises(ImageTooLarge):
            await pool.parse_pixels(hostile.empty_lists(16 * MIB), soon())
        head, pixels = await pool.parse_pixels(b'{"images": [[1, 2]], "top": 2}', soon())
        assert head == {"top": 2} and pixels is not None and pixels.tolist() == [[1, 2]]

    with_pool(use)


def test_a_process_is_killed_at_the_deadline_and_replaced() -> None:
    slow = noise(2000, "WEBP", lossless=True)
    large = Task("image", 100 * MIB, 0, RGB)

    async def use(pool: DecoderPool) -> None:
        await pool.start()
        (before,) = pids(pool)
        began = time.monotonic()
        with pytest.raises(DecodingLate):
            await pool.decode(slow, large, soon(0.05))
        assert time.monotonic() - began < 0.5
        small = noise(100)
        assert (await pool.decode(small, SMALL, soon())).pixels.shape == RGB
        for _ in range(100):
            if not psutil.pid_exists(before):
                break
            await asyncio.sleep(0.02)
        assert not psutil.pid_exists(before)

    with_pool(use)


def test_a_process_ends_itself_when_its_server_does_not() -> None:
    """SIGALRM ends it within C code, and the next image finds another one."""

    async def use(pool: DecoderPool) -> None:
        await pool.start()
        decoder = pool._idle[-1]
        with pytest.raises(EOFError):
            await decoder.exchange(Task("image", 100 * MIB, 0.05, RGB), noise(2000, "WEBP", lossless=True))
        assert decoder._process is not None and await decoder._process.wait() == -signal.SIGALRM
        assert (await pool.decode(noise(100), SMALL, soon())).pixels.shape == RGB

    with_pool(use)


def test_a_process_that_died_while_it_was_idle_costs_nobody_an_answer() -> None:
    async def use(pool: DecoderPool) -> None:
        small = noise(100)
        for _ in range(3):
            await asyncio.gather(*(pool.decode(small, SMALL, soon()) for _ in range(2)))
            killed = pids(pool)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
            assert (await pool.decode(small, SMALL, soon())).pixels.shape == RGB
            assert not killed & pids(pool) or len(pids(pool) - killed) == 1

    with_pool(use)


def test_cancellations_leave_every_decoder_free() -> None:
    async def use(pool: DecoderPool) -> None:
        small, large = noise(100), noise(1000)
        chance = np.random.default_rng(0)
        for _ in range(40):
            task = Task("image", [SMALL_MEMORY, 100 * MIB][chance.integers(2)], 0, RGB)
            running = [
                asyncio.ensure_future(pool.decode(large, task, soon(chance.choice([0.01, 9])))) for _ in range(5)
            ]
            await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.03]))
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        decoded = await asyncio.gather(*(pool.decode(small, SMALL, soon()) for _ in range(8)))
        await asyncio.wait_for(asyncio.wait(pool._exchanges), 5) if pool._exchanges else None
        assert len(decoded) == 8 and len(pool._idle) == pool.size
        assert pool._free._value == pool.size and pool._free_for_large._value == pool.size - 1

    with_pool(use)


def test_small_images_find_a_decoder_beside_any_number_of_large_ones() -> None:
    large, small = noise(2000, "WEBP", lossless=True), noise(64)

    async def use(pool: DecoderPool) -> None:
        await asyncio.gather(*(pool.decode(small, SMALL, soon()) for _ in range(2)))
        task = Task("image", 100 * MIB, 0, RGB)
        running = [asyncio.ensure_future(pool.decode(large, task, soon(60))) for _ in range(6)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            await pool.decode(small, SMALL, soon(5))
        assert sum(one.done() for one in running) < 6
        await asyncio.gather(*running)

    with_pool(use)


def test_who_leaves_ends_what_is_waiting_and_soon_what_runs() -> None:
    large = noise(2000, "WEBP", lossless=True)

    async def use(pool: DecoderPool) -> None:
        await pool.start()
        task = Task("image", 100 * MIB, 0, RGB)
        leaving = [asyncio.ensure_future(pool.decode(large, task, soon(60))) for _ in range(20)]
        await asyncio.sleep(0.05)
        for one in leaving:
            one.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        began = time.monotonic()
        assert (await pool.decode(large, task, soon(60))).pixels.shape == RGB
        assert time.monotonic() - began < 5, "twenty would take longer"

    with_pool(use)


def test_signals_of_a_terminal_and_of_a_stop_are_the_servers() -> None:
    async def use(pool: DecoderPool) -> None:
        await pool.decode(noise(64), SMALL, soon())
        (pid,) = pids(pool)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        assert (await pool.decode(noise(64), SMALL, soon())).pixels.shape == RGB
        assert pids(pool) == {pid}

    with_pool(use)
