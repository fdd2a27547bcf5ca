"""The serving benchmark starts real servers, drives them without an error and prints their rows."""

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

from benchmarks.load import drive
from tests.conftest import ROOT


def test_it_prints_a_row_a_server(sample_model: Path, sample: Path) -> None:
    words = ["--data", str(sample), "--rounds", "1", "--seconds", "0.5", "--rate", "50"]
    words += [word for name in ("png-16", "tile-16", "open", "batch") for word in ("--scenario", name)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", str(sample_model), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| \S+ \(.*?\) \| (\d+) \| .* \| (\d+) \|$", done.stdout, re.M)
    everyone = ["xserve", "xserve", "uvicorn", "LitServe", "BentoML", "onnxruntime"]
    wanted = everyone * 2 + everyone[:5] + [*everyone[:3], everyone[5]]
    assert [row[0].split()[0] for row in rows] == wanted, done.stdout
    assert all(int(rate) > 0 and int(cpu) > 0 and errors == "0" for _, rate, cpu, errors in rows), done.stdout


def test_the_load_counts_answers_errors_and_time() -> None:
    """A server that takes 10 ms, refuses every fourth request and closes the connection at the fortieth."""
    asked = 0
    ready, over = threading.Event(), threading.Event()
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                if asked == 40:
                    break
                await asyncio.sleep(0.01)
                status = b"503 Busy" if asked % 4 == 0 else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\n")
                await asyncio.sleep(0)
                writer.write(b"done")
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            while not over.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        closed = drive(port, [b"GET / HTTP/1.1\r\n\r\n"], 1, 30.0)  # ends when its only connection is lost
        assert asked == 40 and closed.errors == 10 and len(closed.latencies) == 30 and closed.seconds < 15
        assert closed.percentile(50) >= 10
        asked = 41
        opened = drive(port, [b"GET / HTTP/1.1\r\n\r\n"], 1, 1.0, rate=300.0)  # thrice what one connection can do
        assert opened.percentile(99) > 500, "the time without a connection must count"
        assert 200 < len(opened.latencies) + opened.errors < 400 and opened.seconds > 1.5
    finally:
        over.set()
        thread.join(timeout=10)
