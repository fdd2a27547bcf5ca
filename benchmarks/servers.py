"""The servers that are measured: how each is started over a model, waited for and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

SERVERS = {
    "xserve": "xserve",
    "workers": "xserve --workers 2",
    "bare": "uvicorn with the same app",
    "lit": "LitServe",
    "batchable": "BentoML batchable",
}


@dataclass(frozen=True)
class Running:
    """A server that answers on 127.0.0.1, its process, and what it writes."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """What all its processes have computed until now, in the system too."""
        times = []
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times.append(process.cpu_times())
        # Those that have ended are in their parents' figures.
        return sum(float(time.user + time.system + time.children_user + time.children_system) for time in times)


def command(server: str, model: Path, port: int) -> list[str]:
    """How a server is started."""
    if server in ("xserve", "workers"):
        start = [sys.executable, "-c", "from serving.cli import main; main()", str(model)]
        return [*start, "--port", str(port), *(("--workers", "2") if server == "workers" else ())]
    if server == "batchable":
        start = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.batchable:Batchable"]
        return [*start, "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", f"benchmarks.peers.{server}", str(model), str(port)]


@contextmanager
def started(server: str, model: Path, *options: str) -> Iterator[Running]:
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
            [*command(server, model.resolve(), port), *options],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
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
            yield Running(port, process, Path(home) / "log")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
