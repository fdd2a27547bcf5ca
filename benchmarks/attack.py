"""Hostile requests beside good ones: what they cost the server, and whether the good ones notice.

    python -m benchmarks.attack MODEL.onnx --data pathmnist-sample.npz --rounds 100 --clients 16

A process of clients sends every hostile request of the list so many times, shuffled, each on a connection of its own.
Beside it, one client sends a 28x28 PNG and another a PNG of 224x224 pixels, one request after another. Measured are
the resident memory of all the server's processes, the good requests' latencies, and which statuses each hostile
request was answered with; it fails if one is not its own, or a good one not 200.
"""

import asyncio
import contextlib
import gzip
import io
import json
import multiprocessing
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import psutil
import uvloop
from PIL import Image

from benchmarks import hostile
from benchmarks.results import Report, Table, json_option
from benchmarks.servers import Running, started
from benchmarks.serving import npy, png
from benchmarks.traffic import BUSY, MIB, Bad, post, read_answer
from serving.model.card import Card, read_card
from xtrain import console

LEFT = 0  # no status: the client left before an answer
PATIENCE = 60  # seconds until an answer counts as missing


def attacks(shape: tuple[int, int, int], model: str) -> list[Bad]:
    """Return the hostile requests, each with the statuses that answer it."""
    predict, classify, infer = "/v1/predict", "/v1/classify", f"/v2/models/{model}/infer"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n%s\r\n'
    form = part % hostile.palette_png(5000) * 24 + b"--b--\r\n"
    images = np.zeros((20_000, *shape), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2**31 - 1] * 2000, "data": [0]}
    endless = json.dumps({"inputs": [tensor]}).encode()
    entries = hostile.archive_of_entries(300_000)

    def picture(name: str, kind: str, content: bytes, *statuses: int) -> Bad:
        return Bad(name, post(predict, f"image/{kind}", content), statuses)

    return [
        Bad("a form of 24 palette PNGs of 5000²", post(predict, "multipart/form-data; boundary=b", form), (413,)),
        picture("a palette PNG of 5000²", "png", hostile.palette_png(5000), 200),
        picture("a PNG of 5000² in 16 bits", "png", hostile.grey_png(5000), 200),
        picture("a PNG of 15 MiB of empty chunks", "png", hostile.png_of_empty_chunks(15 * MIB), 415),
        picture("a PNG of 63 texts of 1 MB", "png", hostile.png_of_compressed_text(63), 415),
        picture("a JPEG of 15 MiB of empty segments", "jpeg", hostile.jpeg_of_empty_segments(15 * MIB), 415),
        picture("a JPEG of 15 MiB of fill bytes", "jpeg", hostile.jpeg_of_fill_bytes(15 * MIB), 415),
        picture("a JPEG of 15 MiB of scans", "jpeg", hostile.jpeg_of_many_scans(15 * MIB), 415),
        picture("a JPEG of 5000² with 60 scans", "jpeg", hostile.jpeg_of_scans(5000, 60), 200, 413, 504),
        picture("a TIFF of 28² in a tile of 20000²", "tiff", hostile.tiff_of_one_tile(20_000), 413),
        picture("a TIFF of 20,000 pages", "tiff", hostile.tiff_of_pages(20_000), 415),
        picture("a TIFF of 60,000 tags of 8 MiB each", "tiff", hostile.tiff_of_tags(60_000), 415),
        picture("a BMP of 1 megapixel in runs of 1", "bmp", hostile.run_length_bmp(1000), 415),
        Bad("16 MiB of empty lists", post(classify, "application/json", hostile.empty_lists(16 * MIB - 64)), (413,)),
        Bad("100,000 brackets", post(classify, "application/json", b"[" * 100_000), (400,)),
        Bad("a zip of 300,000 files", post("/v1/score", "application/zip", entries), (413,)),
        Bad(
            "gzip of 20 MiB of zeros",
            post(predict, "image/png", gzip.compress(bytes(20 * MIB)), "Content-Encoding: gzip"),
            (413,),
        ),
        Bad("top= and 5,000 zeros", post(f"{predict}?top={'0' * 5000}", "image/png", png(images[0])), (422,)),
        Bad("a shape of 2,000 dimensions", post(infer, "application/json", endless), (422,)),
        Bad("20,000 images, and gone", post(predict, "application/x-npy", npy(images)), (LEFT,)),
    ]


async def attack(port: int, requests: list[Bad], rounds: int, clients: int) -> dict[str, Counter[int]]:
    """Send all requests `rounds` times with so many clients; return the statuses of each."""
    queue = [request for request in requests for _ in range(rounds)]
    random.Random(0).shuffle(queue)
    answers: dict[str, Counter[int]] = {request.name: Counter() for request in requests}

    async def client() -> None:
        while queue:
            request = queue.pop()
            status = -1
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    status = await send(port, request)
            answers[request.name][status] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def send(port: int, request: Bad) -> int:
    """Send one request on a connection of its own and return the status of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        sending = asyncio.ensure_future(_write(writer, request.content))
        if request.statuses == (LEFT,):
            await sending
            await asyncio.sleep(0.05)
            return LEFT
        answer = await read_answer(reader)
        sending.cancel()
        return answer.status
    finally:
        writer.close()


async def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    with contextlib.suppress(OSError):
        await writer.drain()


def attack_process(port: int, card: Card, rounds: int, clients: int) -> dict[str, Counter[int]]:
    """Run `attack` in a process of its own, so that it does not disturb what is measured."""
    return uvloop.run(attack(port, attacks(card.shape, card.name), rounds, clients))


class Watch:
    """Looks at the server beside the attack: its memory, and the good clients' latencies in seconds."""

    def __init__(self, server: Running, good: dict[str, bytes]) -> None:
        self.server, self.over = server, threading.Event()
        self.peak, self.peak_of_one, self.faults = 0, 0, Counter[int]()
        self.latencies: dict[str, list[float]] = {name: [] for name in good}
        self.threads = [threading.Thread(target=self._watch_memory)]
        self.threads += [threading.Thread(target=self._ask, args=item) for item in good.items()]

    def __enter__(self) -> "Watch":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _watch_memory(self) -> None:
        root = psutil.Process(self.server.process.pid)
        while not self.over.wait(0.02):
            resident = []
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    resident.append(process.memory_info().rss)
            self.peak = max(self.peak, sum(resident))
            self.peak_of_one = max(self.peak_of_one, *resident)

    def _ask(self, name: str, content: bytes) -> None:
        async def ask() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
            while not self.over.is_set():
                began = time.perf_counter()
                writer.write(content)
                answer = await read_answer(reader)
                self.latencies[name].append(time.perf_counter() - began)
                if answer.status != 200:
                    self.faults[answer.status] += 1
                await asyncio.sleep(0.005)
            writer.close()

        asyncio.run(ask())


def percentiles(seconds: list[float]) -> list[str]:
    """Return median, 99th percentile and maximum in milliseconds."""
    return [f"{1000 * value:.1f}" for value in (*np.percentile(seconds, (50, 99)), max(seconds))]


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="MODEL.onnx")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="An .npz with test_images.")
@click.option("--rounds", default=100, show_default=True, help="Times that each hostile request is sent.")
@click.option("--clients", default=16, show_default=True, help="Hostile clients.")
@json_option
def main(model: Path, data: Path, rounds: int, clients: int, json_file: Path | None) -> None:
    """Print memory, latencies and statuses; exit code 1 if an answer is not its own."""
    with np.load(data) as arrays:
        image = np.asarray(arrays["test_images"][0], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).resize((224, 224)).save(buffer, "PNG")
    good = {
        "PNG of 28x28": post("/v1/predict", "image/png", png(image)),
        "PNG of 224x224": post("/v1/predict", "image/png", buffer.getvalue()),
    }
    card = read_card(model)
    with started("xserve", model) as server:
        with Watch(server, good) as quiet:
            time.sleep(10)
        with Watch(server, good) as under, ThreadPoolExecutor(1) as thread:
            began = time.monotonic()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                arguments = (server.port, card, rounds, clients)
                answers = thread.submit(pool.apply, attack_process, arguments).result()
            seconds = time.monotonic() - began
    latencies = Table("", ["request", "beside", "median ms", "p99 ms", "max ms", "requests"])
    for watch, beside in ((quiet, "nothing"), (under, f"{clients} hostile clients")):
        latencies.rows.extend(
            [name, beside, *percentiles(taken), str(len(taken))] for name, taken in watch.latencies.items()
        )
    statuses = Table("What each hostile request was answered with:", ["hostile request", "answers"])
    wrong = sum(under.faults.values()) + sum(quiet.faults.values())
    for request in attacks(card.shape, card.name):
        counted = answers[request.name]
        wrong += sum(count for status, count in counted.items() if status not in (*request.statuses, BUSY))
        told = ", ".join(f"{status or 'left'}: {count}" for status, count in sorted(counted.items()))
        statuses.rows.append([request.name, told])
    memory = (
        f"{rounds} rounds of {clients} clients in {seconds:.0f} s; peak resident memory of all processes "
        f"{under.peak / MIB:.0f} MiB ({quiet.peak / MIB:.0f} before), of one {under.peak_of_one / MIB:.0f} MiB; "
        f"{wrong} answers that are not their own"
    )
    click.echo("\n".join([memory, "", latencies.markdown(), "", statuses.markdown()]))
    if under.faults:
        click.echo(f"good requests refused: {dict(under.faults)}", err=True)
    if json_file:
        tables = [Table(memory, latencies.columns, latencies.rows), statuses]
        Report.make(tables).write(json_file)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    console.run(main)
