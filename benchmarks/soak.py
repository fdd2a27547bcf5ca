"""Minutes of everything that may come to a server, good and bad at once, and whether it minds.

    python -m benchmarks.soak ONE.onnx TWO.onnx --data pathmnist-sample.npz --minutes 10

Clients of every kind run side by side against one `xserve`: some ask for what `benchmarks.traffic` calls good and
compare every answer with what the models say in process; some send what is refused, on the same connections; some
send slowly, vanish, never read, or come all at once; one asks for thousands of paths that are not there; one swaps the
models; one sends the requests of `benchmarks.attack`, one after another. It fails with a list if an answer is wrong
or missing, a status is not the one specified, the memory of the server without its decoders is not flat, its open
files stay, /metrics grows, or the log has a traceback.
"""

import asyncio
import contextlib
import io
import itertools
import os
import random
import re
import shutil
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import uvloop
from PIL import Image

from benchmarks.attack import LEFT, attacks, send
from benchmarks.results import Report, Table, json_option
from benchmarks.servers import started
from benchmarks.traffic import BUSY, Answer, Bad, Good, Request, Truth, bad, get, good, post, read_answer
from serving.model.card import read_card
from serving.model.predictor import Predictor
from xtrain import console
from xtrain.images import decode

GONE = 404  # the model that the attack names is not the one that answers at the moment
TIMEOUT = 5  # the server's, in seconds
QUEUE = 512
ADMIN = "root"
PATIENCE = 30  # seconds until an answer counts as missing
METRICS_BYTES = 200_000


@dataclass
class Tally:
    """What was sent, what came back, and what should not have."""

    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    left: Counter[str] = field(default_factory=Counter)  # sent by clients that wait for no answer
    faults: list[str] = field(default_factory=list)

    def take(self, request: Request, answer: Answer, truth: Truth) -> None:
        """Count an answer and judge it."""
        self.answers[request.name][answer.status] += 1
        fault = request.fault(answer, truth)
        if fault:
            self.faults.append(f"{request.name}: {fault}")


@dataclass(frozen=True)
class Sample:
    """The server at one moment: resident bytes without and of its decoders, open files, bytes of /metrics."""

    seconds: float
    resident: int
    decoders: int
    files: int
    metrics: int


class Soak:
    """The clients of one run; each is a coroutine that goes on until the end."""

    def __init__(self, port: int, pid: int, truth: Truth, requests: list[Good], refused: list[Bad], end: float) -> None:
        self.port, self.end, self.truth, self.good, self.bad = port, end, truth, requests, refused
        self.process = psutil.Process(pid)
        self.tally, self.samples = Tally(), list[Sample]()
        self.chance = random.Random(0)

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A new connection, closed whatever happens."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def converse(self, choose: Callable[[], Request], pause: float) -> None:
        """One request after another on as few connections as the server allows."""
        while not self.over():
            async with self.connection() as (reader, writer):
                while not self.over():
                    request = choose()
                    try:
                        async with asyncio.timeout(PATIENCE):
                            writer.write(request.content)
                            answer = await read_answer(reader)
                    except (OSError, EOFError, TimeoutError) as error:
                        self.tally.faults.append(f"{request.name}: no answer ({error!r})")
                        break
                    self.tally.take(request, answer, self.truth)
                    if isinstance(request, Bad) and not request.whole or answer.headers.get("connection") == "close":
                        break
                    await asyncio.sleep(pause)

    def any_good(self) -> Request:
        """Mostly single images."""
        return self.chance.choice(self.good[:2] if self.chance.random() < 0.7 else self.good)

    def any_mixed(self) -> Request:
        """Good ones among the bad, so that what a bad one leaves behind on a connection shows."""
        return self.any_good() if self.chance.random() < 0.3 else self.chance.choice(self.bad)

    async def wander(self, paths: int) -> None:
        """Ask for paths that are not there, evenly over the time."""
        begin = time.monotonic()
        prefixes = ("/v1/", "/v2/models/", "/", "/v1/predict/", "/v2/models/x/versions/")
        numbers = itertools.count()

        def choose() -> Request:
            number = next(numbers)
            return Bad("a path that is not there", get(f"{prefixes[number % 5]}none-{number}"), (404, 405))

        asked = 0
        while asked < paths:  # to the last, however busy the server was
            share = (time.monotonic() - begin) / (self.end - begin)
            due = int(paths * min(1.0, share * 1.1)) - asked
            await self.several(choose, due)
            asked += due
            await asyncio.sleep(0.1)

    async def several(self, choose: Callable[[], Request], count: int) -> None:
        """So many requests on one connection."""
        async with self.connection() as (reader, writer):
            for _ in range(count):
                request = choose()
                writer.write(request.content)
                self.tally.take(request, await read_answer(reader), self.truth)

    async def swap(self, names: list[str], every: float) -> None:
        """Let the models answer in turn."""
        turn = 0
        while not self.over():
            await asyncio.sleep(min(every, max(0.0, self.end - time.monotonic())))
            if self.over():
                return
            turn += 1
            body = f'{{"path": "{names[turn % 2]}.onnx"}}'.encode()
            asked = post("/v1/model", "application/json", body, f"Authorization: Bearer {ADMIN}")
            await self.several(lambda asked=asked: _Swap("a swap", asked), 1)  # type: ignore[misc]

    async def crawl(self) -> None:
        """Send slowly: in time, too late, and a head that never ends."""
        while not self.over():
            request = self.good[0]
            async with self.connection() as (reader, writer):
                size = len(request.content) // 5 + 1
                for start in range(0, len(request.content), size):
                    writer.write(request.content[start : start + size])
                    await asyncio.sleep(0.2)
                self.tally.take(request, await read_answer(reader), self.truth)
            if self.end - time.monotonic() < 2 * TIMEOUT:
                return
            async with self.connection() as (reader, writer):
                writer.write(request.content[:-10])
                late = Bad("a body that does not come", b"", (408,))
                self.tally.take(late, await read_answer(reader), self.truth)
            async with self.connection() as (reader, writer):
                writer.write(request.content[:40])
                self.tally.left["a head that does not end"] += 1
                await asyncio.sleep(TIMEOUT / 2)

    async def vanish(self) -> None:
        """Leave in the middle of a request, while it runs, or in the middle of its answer, with and without a word."""
        while not self.over():
            request = self.chance.choice(self.good)
            async with self.connection() as (reader, writer):
                cut = self.chance.choice((len(request.content) // 2, len(request.content)))
                writer.write(request.content[:cut])
                await writer.drain()
                await asyncio.sleep(self.chance.choice((0.0, 0.001, 0.01)))
                if self.chance.random() < 0.3 and cut == len(request.content):
                    await reader.read(10)
                if self.chance.random() < 0.5:  # reset the connection instead of closing it
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.tally.left["a client that vanishes"] += 1
            await asyncio.sleep(0.02)

    async def hoard(self) -> None:
        """Ask for much and read nothing of it."""
        while not self.over():
            async with self.connection() as (_, writer):
                writer.write(self.good[5].content * 20)
                self.tally.left["a client that does not read"] += 1
                await asyncio.sleep(TIMEOUT / 2)

    async def crowd(self, every: float) -> None:
        """Come all at once with more than the queue holds."""
        request = next(item for item in self.good if item.name == "an array of 64")
        while not self.over():
            await asyncio.sleep(min(every, max(0.0, self.end - time.monotonic())))
            if self.over():
                return
            await asyncio.gather(*(self.several(lambda: request, 1) for _ in range(60)))

    async def attack(self, hostile: list[Bad], pause: float) -> None:
        """Send what `benchmarks.attack` sends, again and again in another order, one at a time."""
        while not self.over():
            self.chance.shuffle(hostile)
            for request in hostile:
                if self.over():
                    return
                try:
                    async with asyncio.timeout(PATIENCE):
                        status = await send(self.port, request)
                except (OSError, EOFError, TimeoutError) as error:
                    self.tally.faults.append(f"{request.name}: no answer ({error!r})")
                    continue
                if status == LEFT:
                    self.tally.left[request.name] += 1
                    continue
                self.tally.answers[request.name][status] += 1
                if status not in (*request.statuses, BUSY, GONE):
                    self.tally.faults.append(f"{request.name}: {status}")
                await asyncio.sleep(pause)

    async def watch(self) -> None:
        """Look at the server once a second."""
        begin = time.monotonic()
        while not self.over():
            metrics = await self.metrics()
            self.samples.append(Sample(time.monotonic() - begin, *self.size(), len(metrics)))
            await asyncio.sleep(1)

    def size(self) -> tuple[int, int, int]:
        """Resident bytes of the server's processes, those of its decoders, and the open files of the former."""
        resident = {True: 0, False: 0}
        files = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # a decoder that was just replaced
                decoder = "serving.images.decoder" in process.cmdline()
                # A decoder that starts meanwhile brings its own files, and two at its server's end.
                files += -2 if decoder else process.num_fds()
                resident[decoder] += process.memory_info().rss
        return resident[False], resident[True], files

    async def metrics(self) -> bytes:
        """The text of /metrics."""
        async with self.connection() as (reader, writer):
            writer.write(get("/metrics"))
            return (await read_answer(reader)).content

    async def run(self, names: list[str], paths: int, every: float, hostile: list[Bad]) -> None:
        """All of them, side by side; then the silence after them."""
        *_, before = self.size()
        clients: list[Coroutine[Any, Any, None]] = [self.converse(self.any_good, 0.0) for _ in range(8)]
        clients += [self.converse(self.any_mixed, 0.005) for _ in range(3)]
        clients += [self.crawl() for _ in range(3)]
        clients += [self.vanish(), self.vanish(), self.hoard(), self.hoard()]
        clients += [self.wander(paths), self.swap(names, every), self.crowd(every / 4), self.watch()]
        clients += [self.attack(list(hostile), 0.5)]
        await asyncio.gather(*clients)
        for _ in range(2 * TIMEOUT):  # what was left behind is given up within the timeout
            await asyncio.sleep(1)
            after, text = self.size()[2], (await self.metrics()).decode()
            left = dict(re.findall(r"^xtrain_(waiting_images|reserved_bytes) (\S+)", text, re.M))
            if after <= before + 3 and len(left) == 2 and not any(map(float, left.values())):
                return
        self.tally.faults.append(f"{after - before} open files and {left} stayed behind")


class _Swap(Bad):
    """Refused only in its shape: a swap is answered with 200."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(name, content, (200,))


def judge(samples: list[Sample], warm: float, flat: float) -> tuple[list[str], list[str]]:
    """What is told of the samples, and what is wrong with them; memory is judged in medians of ten samples."""
    settled = [sample.resident for sample in samples if sample.seconds >= warm]
    windows = [statistics.median(settled[at : at + 10]) for at in range(0, max(1, len(settled) - 9), 10)]
    middle, part = statistics.median(windows), -(-len(windows) // 4)
    low, high = min(windows) / middle - 1, max(windows) / middle - 1
    drift = statistics.median(windows[-part:]) / statistics.median(windows[:part]) - 1
    metrics = max(sample.metrics for sample in samples)
    found = f"{middle / 1e6:.0f} MB, {low:+.1%} to {high:+.1%}; the last quarter beside the first {drift:+.1%}"
    decoders = [sample.decoders / 1e6 for sample in samples]
    highest = f"highest moment {max(settled) / 1e6:.0f} MB"
    told = [
        f"resident memory without decoders after {warm:.0f} s, medians of 10 s: {found}; {highest}",
        f"decoders' beside it: {statistics.median(decoders):.0f} MB, at the highest moment {max(decoders):.0f} MB",
        f"/metrics: {samples[0].metrics} bytes at first, {metrics} at most",
    ]
    wrong = [f"resident memory is not flat: {found}"] if max(high, abs(drift)) > flat else []
    wrong += [f"/metrics is {metrics} bytes"] if metrics > METRICS_BYTES else []
    return told, wrong


def table(tally: Tally) -> Table:
    """A row for each kind of request."""
    answered = [
        [name, str(found.total()), ", ".join(f"{code}: {n}" for code, n in sorted(found.items()))]
        for name, found in sorted(tally.answers.items())
    ]
    left = [[name, str(count), "none awaited"] for name, count in sorted(tally.left.items())]
    return Table("", ["sent", "requests", "answers"], [*answered, *left])


def prepare(models: list[Path], data: Path, folder: Path) -> tuple[Truth, list[Good], list[Bad]]:
    """Copy the models into the server's folder; what they say of each image; what is sent."""
    for model, name in zip(models, ("one", "two"), strict=True):
        shutil.copy(model, folder / f"{name}.onnx")
    (folder / "broken.onnx").write_bytes(models[0].read_bytes()[:10_000])
    (folder / "admins").write_text(f"{ADMIN}\n")
    predictors = [Predictor(folder / f"{name}.onnx", "cpu") for name in ("one", "two")]
    if predictors[0].digest == predictors[1].digest or predictors[0].card.shape != predictors[1].card.shape:
        raise click.ClickException("the two models must be two, and take images of the same shape")
    with np.load(data) as arrays:
        images = np.resize(arrays["test_images"], (300, *predictors[0].card.shape)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(images[0].squeeze()).resize((2000, 2000)).save(buffer, "PNG", compress_level=1)
    images = np.concatenate([images, decode(buffer.getvalue(), predictors[0].card.shape)[None]])
    truth = {predictor.digest: predictor.predict(images) for predictor in predictors}
    names = [predictor.card.name for predictor in predictors]
    return truth, good(images, names, buffer.getvalue()), bad(images, ADMIN, "broken.onnx")


@click.command()
@click.argument("models", nargs=2, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="ONE TWO")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="An .npz with test_images.")
@click.option("--minutes", default=10.0, show_default=True, help="How long.")
@click.option("--swap-every", default=60.0, show_default=True, help="Seconds between two swaps of the model.")
@click.option("--paths", default=10_000, show_default=True, help="Paths that are not there.")
@click.option("--flat", default=0.05, show_default=True, help="Share that memory may change by after the first minute.")
@json_option
def main(models: tuple[Path, Path], data: Path, minutes: float, json_file: Path | None, **options: Any) -> None:
    """Print what was sent, what came back and what it cost; exit code 1 if anything was wrong."""
    seconds, flat = minutes * 60, options["flat"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, requests, refused = prepare(list(models), data, folder)
        limits = ["--timeout", str(TIMEOUT), "--max-queue", str(QUEUE), "--admin-tokens", str(folder / "admins")]
        with started("xserve", folder / "one.onnx", *limits) as server:
            end = time.monotonic() + seconds
            soak = Soak(server.port, server.process.pid, truth, requests, refused, end)
            card = read_card(folder / "one.onnx")
            hostile = attacks(card.shape, card.name)
            uvloop.run(soak.run(["one", "two"], options["paths"], options["swap_every"], hostile))
            server.process.terminate()
            code = server.process.wait(timeout=30)
            crashes = [line for line in server.log.read_text().splitlines() if line.startswith("Traceback")]
    told, wrong = judge(soak.samples, min(60.0, seconds / 2), flat)
    faults = soak.tally.faults + wrong
    faults += [f"{request.name}: never answered" for request in requests if not soak.tally.answers[request.name][200]]
    for request in refused:
        if not any(soak.tally.answers[request.name][status] for status in request.statuses):
            faults.append(f"{request.name}: never refused for its own reason")
    faults += [f"the server ended with {code}"] if code else []
    faults += [f"{len(crashes)} tracebacks in the log"] if crashes else []
    click.echo(f"{seconds:.0f} s of mixed traffic, {os.cpu_count()} cores with the load's\n")
    sent = table(soak.tally)
    click.echo("\n".join([sent.markdown(), "", *told, f"faults: {len(faults)}"]))
    if json_file:
        caption = f"{seconds:.0f} s of mixed traffic; {'; '.join(told)}; {len(faults)} faults"
        Report.make([replace(sent, caption=caption)]).write(json_file)
    for fault in faults[:20]:
        click.echo(fault, err=True)
    sys.exit(bool(faults))


if __name__ == "__main__":
    console.run(main)
