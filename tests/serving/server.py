"""A real `xserve` process on loopback for tests that speak HTTP."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

XSERVE = [sys.executable, "-c", "from serving.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(model: Path, home: Path, *options: str, tls: ssl.SSLContext | None = None) -> Iterator[httpx.Client]:
    """Start the service, wait at most 60 s until it is ready, stop it by its own id; yields a client."""
    with process_of(model, home, *options, tls=tls) as (client, _):
        yield client


@contextmanager
def process_of(
    model: Path, home: Path, *options: str, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """As `running`; yields the process too."""
    log = home / "serve.log"
    for attempt in range(3):
        port = free_port()
        process = _start([*XSERVE, str(model), "--port", str(port), *options], home, log)
        if not _lost_its_port(process, log) or attempt == 2:
            break
    try:
        base = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=30, trust_env=False, verify=tls or True) as client:
            for _ in range(300):
                assert process.poll() is None, log.read_text()
                if _is_ready(client):
                    break
                time.sleep(0.2)
            else:
                raise AssertionError(f"not ready after 60 s: {log.read_text()}")
            yield client, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def _start(command: list[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "BENTOML_HOME": str(home), "PROMETHEUS_MULTIPROC_DIR": str(home / "prometheus")}
    with open(log, "wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=home, start_new_session=True)


def _lost_its_port(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether another process took a port between the moment BentoML or the test chose it and its use."""
    for _ in range(300):
        text = log.read_text()
        if process.poll() is not None:
            return "in use" in text
        if "Started server process" in text or "(Ctrl-C" in text or "Ctrl-C stops it" in text:
            return False
        time.sleep(0.1)
    return False


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
