"""The demo behind `make demo`: the whole path on the digits that ship inside scikit-learn, with no download.

Trains, exports, evaluates, scores to a CSV, serves, sends a picture. Every step is the real command, printed
before it runs, so that it can be repeated by hand.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image

from xtrain.data import catalog
from xtrain.data.splits import divide, select

FOLDER = Path("runs/demo")
RUN, MODEL, CSV, PICTURE = (FOLDER / name for name in ("simplecnn", "model.onnx", "predictions.csv", "digit.png"))
START_SECONDS = 60


def command(name: str, *arguments: object) -> list[str]:
    """A console script of this environment with its arguments; prints it as one would type it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join([name, *words])}", flush=True)
    return [str(Path(sys.executable).parent / name), *words]


def run(name: str, *arguments: object) -> None:
    """Run a command; one that fails has said why, and ends the demo with its exit code."""
    code = subprocess.run(command(name, *arguments)).returncode
    if code:
        sys.exit(code)


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def save_picture() -> int:
    """Write the first test digit as a PNG; returns its true class."""
    digits = catalog.load("digits")
    test = select(digits, divide(digits), "test")
    assert test.labels is not None
    Image.fromarray(test.images[0, :, :, 0]).save(PICTURE)
    return int(test.labels[0])


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Poll /readyz until it answers 200, the server dies, or the time is up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"error: the service was not ready within {START_SECONDS} s; its log is {FOLDER / 'serve.log'}")


def main() -> None:
    """Run the path from data to answer."""
    began = time.monotonic()
    run("xtrain", "simplecnn", "--data", "digits", "--epochs", 8, "-o", RUN, "--overwrite")
    run("xexport", RUN, "-o", MODEL, "--overwrite")
    run("xeval", MODEL, "digits")
    run("xscore", MODEL, "digits", "-o", CSV, "--overwrite")
    truth = save_picture()
    run("xpredict", MODEL, PICTURE, "--top", 3)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = command("xserve", MODEL, "--port", port)
    with open(FOLDER / "serve.log", "wb") as log:
        server = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_ready(server, url)
            print(f"\n$ curl --data-binary @{PICTURE} -H 'Content-Type: image/png' {url}/v1/predict", flush=True)
            request = urllib.request.Request(f"{url}/v1/predict", PICTURE.read_bytes(), {"Content-Type": "image/png"})
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)
    print(json.dumps(answer, indent=2))
    label = answer["predictions"][0]["label"]
    print(f"\nThe service says {label}; the picture shows a {truth}. {time.monotonic() - began:.0f} s in all.")
    print(f"Everything lies in {FOLDER}/:")
    for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(FOLDER)}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
