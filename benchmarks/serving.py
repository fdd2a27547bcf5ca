"""Requests a second of this service beside what a user would serve the same file with, in turn within one run.

    python -m benchmarks.serving MODEL.onnx --data pathmnist-sample.npz

Each server is started alone, warmed up for a second and driven by a process of its own (`benchmarks.load`), the same
images in the same order: one encoded image or one raw array of an image a request at 1, 16 and 64 connections, the
encoded image at a fixed rate too (open loop), and arrays of 256. The peers are in `benchmarks.peers`; the last row of a
table is onnxruntime in process on the same work without any HTTP. The load shares the machine's cores with the server;
the CPU time is that of all the server's processes, divided by its answers.
"""

import io
import json
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.load import Load, drive
from benchmarks.results import Report, Table, json_option
from benchmarks.servers import SERVERS, started
from serving.model.predictor import Predictor
from xtrain import console
from xtrain.data.datasets import read_npz
from xtrain.images import decode

RAW = "onnxruntime in process"
BATCH = 256


@dataclass(frozen=True)
class Scenario:
    """What is sent, over how many connections, at which rate."""

    name: str
    kind: str
    connections: int
    rate: float | None = None

    @property
    def images(self) -> int:
        """Of one request."""
        return BATCH if self.kind == "batch" else 1

    def servers(self, chosen: list[str]) -> list[str]:
        """Those that take it: the other ones answer one image at a time, or refuse more than their batch."""
        return [server for server in chosen if self.kind != "batch" or server in ("xserve", "workers", "bare")]


def scenarios(rate: float) -> list[Scenario]:
    """All that can be measured."""
    single = [
        Scenario(f"{kind}-{connections}", kind, connections) for kind in ("png", "tile") for connections in (1, 16, 64)
    ]
    return [*single, Scenario("open", "png", 64, rate), Scenario("batch", "batch", 2)]


WHAT = {"png": "one PNG a request", "tile": "one raw image a request", "batch": f"{BATCH} raw images a request"}


def requests(server: str, kind: str, pixels: np.ndarray, port: int) -> list[bytes]:
    """Whole HTTP requests in the form that the server takes, one for each image or array."""
    groups = [np.resize(pixels, (BATCH, *pixels.shape[1:]))] if kind == "batch" else [image[None] for image in pixels]
    found = []
    for images in groups:
        path, media, body = "/v1/predict", "application/x-npy", npy(images)
        if kind == "png":
            media, body = "image/png", png(images[0])
        if server == "lit":
            head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
            path, body = "/predict", head + f"Content-Type: {media}\r\n\r\n".encode() + body + b"\r\n--x--\r\n"
            media = "multipart/form-data; boundary=x"
        elif server == "batchable":
            path, media, body = "/predict", "application/json", json.dumps({"images": images.tolist()}).encode()
        lines = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media}\r\n"
        found.append(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return found


def png(image: np.ndarray) -> bytes:
    """One encoded image."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def npy(images: np.ndarray) -> bytes:
    """An array as `.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


def in_process(predictor: Predictor, kind: str, pixels: np.ndarray, seconds: float) -> Load:
    """The same work without a server: one after another, decoding included."""
    encoded = [png(image) for image in pixels]
    batch = np.resize(pixels, (BATCH, *pixels.shape[1:]))
    latencies: list[float] = []
    computed, start = time.process_time(), time.perf_counter()
    while (began := time.perf_counter()) < start + seconds:
        index = len(latencies) % len(pixels)
        if kind == "png":
            predictor.predict(decode(encoded[index], predictor.card.shape)[None])
        else:
            predictor.predict(batch if kind == "batch" else pixels[index : index + 1])
        latencies.append(time.perf_counter() - began)
    return Load(latencies, 0, time.perf_counter() - start, time.process_time() - computed)


def table(scenario: Scenario, found: dict[str, list[Load]]) -> Table:
    """The rows of one scenario; ratios are of the same round, their median told with the lowest and the highest."""
    at = f"{scenario.rate:g} requests/s on {scenario.connections}" if scenario.rate else str(scenario.connections)
    caption = f"{WHAT[scenario.kind]}, {at} connection{'s' * (scenario.connections > 1)}"
    columns = ["server", "images/s", "`xserve`'s share (lowest to highest)", "CPU µs a request", "`xserve`'s share"]
    columns += ["p50, p95, p99 ms", "errors"]
    rows = []
    for server, loads in found.items():
        pairs = [(ours, theirs) for ours, theirs in zip(found.get("xserve", []), loads, strict=False) if theirs.rate]
        shares = shown([ours.rate / theirs.rate for ours, theirs in pairs])
        cpu_shares = shown([ours.cpu_a_request / theirs.cpu_a_request for ours, theirs in pairs])
        cpu = statistics.median(load.cpu_a_request for load in loads)
        parts = [statistics.median(load.percentile(part) for load in loads) for part in (50, 95, 99)]
        rate = statistics.median(load.rate for load in loads) * scenario.images
        times = ", ".join(f"{value:.1f}" for value in parts)
        errors = sum(load.errors for load in loads)
        rows.append([SERVERS.get(server, RAW), f"{rate:.0f}", shares, f"{cpu:.0f}", cpu_shares, times, str(errors)])
    return Table(caption, columns, rows)


def shown(ratios: list[float]) -> str:
    """The median of some ratios with the lowest and the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="An .npz with test_images.")
@click.option("--seconds", default=5.0, show_default=True, help="Of one measurement.")
@click.option("--rounds", default=3, show_default=True, help="Measurements of each server, in turn.")
@click.option("--rate", default=200.0, show_default=True, help="Requests a second of the open loop.")
@click.option("--server", "chosen", multiple=True, type=click.Choice(list(SERVERS)), help="Only these.")
@click.option(
    "--scenario", "named", multiple=True, type=click.Choice([s.name for s in scenarios(1)]), help="Only these."
)
@json_option
def main(model: Path, data: Path, seconds: float, rounds: int, **options: Any) -> None:
    """Print a table for each scenario."""
    rate, chosen, named = options["rate"], options["chosen"], options["named"]
    pixels = read_npz(data).splits["test"].images[:200]
    wanted = [scenario for scenario in scenarios(rate) if not named or scenario.name in named]
    servers = list(chosen) or list(SERVERS)
    found: dict[Scenario, dict[str, list[Load]]] = {scenario: {} for scenario in wanted}
    context = multiprocessing.get_context("spawn")
    predictor = Predictor(model, "cpu")
    predictor.warm_up()
    for _ in range(rounds):
        for server in servers:
            here = [scenario for scenario in wanted if server in scenario.servers(servers)]
            if not here:
                continue
            with started(server, model) as running, context.Pool(1) as pool:
                for scenario in here:
                    sent = requests(server, scenario.kind, pixels, running.port)
                    pool.apply(drive, (running.port, sent, scenario.connections, 1.0))
                    computed = running.cpu_seconds()
                    load = pool.apply(drive, (running.port, sent, scenario.connections, seconds, scenario.rate))
                    load = replace(load, cpu=running.cpu_seconds() - computed)
                    found[scenario].setdefault(server, []).append(load)
        for scenario in wanted:
            if scenario.rate is None:
                load = in_process(predictor, scenario.kind, pixels, seconds)
                found[scenario].setdefault("raw", []).append(load)
    click.echo(f"{model.name}, {os.cpu_count()} cores with the load's, medians of {rounds} rounds of {seconds:g} s")
    tables = [table(scenario, loads) for scenario, loads in found.items()]
    for each in tables:
        click.echo(each.markdown())
    if options["json_file"]:
        Report.make(tables).write(options["json_file"])


if __name__ == "__main__":
    console.run(main)
