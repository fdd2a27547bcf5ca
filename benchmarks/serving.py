"""Requests a second of this service beside what a user would serve the same file with, in turn within one run.

    python -m benchmarks.serving MODEL.onnx --data pathmnist-sample.npz

Each server is started alone, warmed up for a second and driven for some seconds by a process of its own over
keep-alive connections, closed loop (a connection sends its next request when the last is answered): one encoded
image a request, the same images in the same order. The peers are in `benchmarks.peers`; the last row is onnxruntime
in process, one decoded image at a time, without any HTTP. The load shares the machine's cores with the server.
"""

import asyncio
import io
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from serving.images import decode
from serving.predictor import Predictor

SERVERS = ["xserve", "bare", "lit", "batchable"]
NAMES = {
    "xserve": "xserve",
    "bare": "uvicorn with the same app",
    "lit": "LitServe",
    "batchable": "BentoML batchable",
}


@dataclass(frozen=True)
class Load:
    """What one measurement gave: answers, errors, and the seconds of each answer."""

    seconds: float
    errors: int
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Latency in milliseconds."""
        return float(np.percentile(self.latencies, share)) * 1000 if self.latencies else float("nan")


def command(server: str, model: Path, port: int) -> list[str]:
    """How a server is started."""
    if server == "xserve":
        return [
            sys.executable,
            "-c",
            "from serving.cli import serve_main; serve_main()",
            str(model),
            "--port",
            str(port),
        ]
    if server == "batchable":
        start = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.batchable:Batchable"]
        return [*start, "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", f"benchmarks.peers.{server}", str(model), str(port)]


def requests(server: str, images: list[bytes], pixels: np.ndarray, port: int) -> list[bytes]:
    """Whole HTTP requests, one an image, in the form that the server takes."""
    found = []
    for content, image in zip(images, pixels, strict=True):
        path, kind, body = "/v1/predict", "image/png", content
        if server == "lit":
            head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
            path, kind = "/predict", "multipart/form-data; boundary=x"
            body = head + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n--x--\r\n"
        elif server == "batchable":
            path, kind, body = "/predict", "application/json", json.dumps({"images": [image.tolist()]}).encode()
        lines = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
        found.append(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return found


async def client(port: int, sent: list[bytes], first: int, end: float) -> tuple[list[float], int]:
    """One connection until `end`: latencies and the number of errors."""
    latencies, errors, index = [], 0, first
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(sent[index % len(sent)])
        index += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if head.startswith(b"http/1.1 200"):
            latencies.append(time.perf_counter() - began)
        else:
            errors += 1
    writer.close()
    return latencies, errors


def drive(port: int, sent: list[bytes], connections: int, seconds: float) -> Load:
    """Run in the load's own process."""

    async def main() -> list[tuple[list[float], int]]:
        end = time.perf_counter() + seconds
        return await asyncio.gather(*(client(port, sent, index * 7, end) for index in range(connections)))

    parts = asyncio.run(main())
    return Load(seconds, sum(errors for _, errors in parts), [one for latencies, _ in parts for one in latencies])


@contextmanager
def started(server: str, model: Path) -> Iterator[int]:
    """A server on a free port, ready; ended by its own process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "wb") as log:
        environment = {
            **os.environ,
            "XTRAIN_MODEL": str(model.resolve()),
            "BENTOML_HOME": home,
            "PROMETHEUS_MULTIPROC_DIR": f"{home}/prometheus",
            "BENTOML_DO_NOT_TRACK": "True",
        }
        process = subprocess.Popen(
            command(server, model.resolve(), port), stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise click.ClickException(f"{server} ended: {(Path(home) / 'log').read_text()[-500:]}")
                try:
                    path = "/health" if server == "lit" else "/readyz" if server != "bare" else "/v2/health/ready"
                    with socket.create_connection(("127.0.0.1", port), 1) as probe:
                        probe.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                        if b" 200" in probe.recv(64):
                            break
                except OSError:
                    pass
                time.sleep(0.2)
            else:
                raise click.ClickException(f"{server} was not ready within 60 s")
            yield port
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)


def in_process(model: Path, images: list[bytes], seconds: float) -> Load:
    """Decode and predict one image after another."""
    predictor = Predictor(model, "cpu")
    predictor.warm_up()
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        predictor.predict(decode(images[len(latencies) % len(images)], predictor.card.shape)[None])
        latencies.append(time.perf_counter() - began)
    return Load(seconds, 0, latencies)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="An .npz with test_images.")
@click.option("--connections", default=64, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Of one measurement.")
@click.option("--rounds", default=3, show_default=True, help="Measurements of each server, in turn.")
@click.option("--server", "chosen", multiple=True, type=click.Choice(SERVERS), help="Only these.")
def main(model: Path, data: Path, connections: int, seconds: float, rounds: int, chosen: tuple[str, ...]) -> None:
    """Print the table; ratios are medians over the rounds."""
    with np.load(data) as arrays:
        pixels = arrays["test_images"][:200]
    images = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        images.append(buffer.getvalue())
    servers = list(chosen) or SERVERS
    found: dict[str, list[Load]] = {server: [] for server in [*servers, "raw"]}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for server in servers:
            with started(server, model) as port, context.Pool(1) as pool:
                sent = requests(server, images, pixels, port)
                pool.apply(drive, (port, sent, connections, 1.0))
                found[server].append(pool.apply(drive, (port, sent, connections, seconds)))
        found["raw"].append(in_process(model, images, seconds))
    click.echo(f"\n{model.name}, one PNG a request, {connections} connections, {os.cpu_count()} cores with the load's")
    click.echo("\n| server | requests/s | p50 ms | p95 ms | p99 ms | errors | xserve's share (lowest to highest) |")
    click.echo("|---|---|---|---|---|---|---|")
    for server, loads in found.items():
        ratios = [
            ours.rate / theirs.rate for ours, theirs in zip(found.get("xserve", []), loads, strict=False) if theirs.rate
        ]
        share = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        median = [statistics.median(load.percentile(part) for load in loads) for part in (50, 95, 99)]
        click.echo(
            f"| {NAMES.get(server, 'onnxruntime in process, decoding included')} | "
            f"{statistics.median(load.rate for load in loads):.0f} | "
            f"{' | '.join(f'{value:.1f}' for value in median)} | {sum(load.errors for load in loads)} | {share} |"
        )


if __name__ == "__main__":
    main()
