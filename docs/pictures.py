"""Takes the pictures of the pages: curves, TensorBoard, the Swagger page, the page at /ui, a report, a terminal.

    python docs/pictures.py --data data/pathmnist-sample.npz --tiles data/tiles

Needs Chromium; every picture is of a real run, a real server and real output.
"""

import contextlib
import html
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

from xtrain import console
from xtrain.errors import OutputError

PICTURES = Path(__file__).resolve().parent / "pictures"
BIN = Path(sys.executable).parent
WAIT_SECONDS = 60


@contextlib.contextmanager
def serving(words: list[str], url: str, folder: Path) -> Iterator[None]:
    """A process that answers at a URL, ended by its id."""
    environment = {**os.environ, "BENTOML_HOME": str(folder / "bentoml")}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise OutputError(f"{url} does not answer; {(folder / 'server.log').read_text()}") from error
                time.sleep(0.3)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def screenshot(url: str, target: Path, size: tuple[int, int], seconds: int = 8) -> None:
    """Save what a browser shows, in a palette of 128 colours."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise OutputError("no Chromium is here to take the pictures with; install one")
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={size[0]},{size[1]}",
    ]
    words = [browser, *flags, f"--virtual-time-budget={1000 * seconds}", f"--screenshot={target}", url]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    with Image.open(target) as picture:
        picture.convert("RGB").quantize(128).save(target, optimize=True)


def terminal(commands: list[str], folder: Path) -> str:
    """Run commands and return the page of a terminal with what they print."""
    lines = []
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )
        lines.append(f"<b>$ {html.escape(command)}</b>\n{html.escape(done.stderr + done.stdout)}")
    style = "background:#1e1e1e;color:#ddd;font:15px monospace;padding:16px;margin:0;white-space:pre-wrap"
    return f"<body style='{style}'>{''.join(lines)}</body>"


def page_with_tiles(url: str, tiles: Path, target: Path) -> None:
    """Save the page of a server with its answers to the images of a folder."""
    from playwright.sync_api import expect, sync_playwright

    files = sorted(tiles.glob("*.png"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 980})
        page.goto(url)
        page.locator("#files").set_input_files(files)
        expect(page.locator("#status")).to_contain_text(f"{len(files)} of {len(files)} classified")
        page.locator(".result").nth(1).hover()
        expect(page.locator(".heatmap")).to_be_visible()
        page.screenshot(path=target)
        browser.close()
    with Image.open(target) as picture:
        picture.convert("RGB").quantize(128).save(target, optimize=True)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="A PathMNIST .npz.")
@click.option("--tiles", required=True, type=click.Path(exists=True, path_type=Path), help="A folder of tiles.")
def main(data: Path, tiles: Path) -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(data, folder / data.name)
        commands = [
            f"xtrain simplecnn --data {data.name} --epochs 12 --tensorboard -o runs/tissue",
            "xexport runs/tissue -o tissue.onnx --explain",
            f"xeval tissue.onnx {data.name}",
        ]
        subprocess.run(
            [str(BIN / "xeval"), "tissue.onnx", data.name, "--report", "report.html"], cwd=folder, check=True
        )
        screenshot(f"file://{folder / 'report.html'}", PICTURES / "report.png", (1060, 2600))
        page = folder / "terminal.html"
        page.write_text(terminal(commands, folder), encoding="utf-8")
        screenshot(f"file://{page}", PICTURES / "terminal.png", (1150, 640))
        with Image.open(folder / "runs" / "tissue" / "curves.png") as curves:
            curves.convert("RGB").quantize(64).save(PICTURES / "curves.png", optimize=True)
        port = free_port()
        with serving(
            [str(BIN / "xserve"), "tissue.onnx", "--port", str(port)], f"http://127.0.0.1:{port}/readyz", folder
        ):
            screenshot(f"http://127.0.0.1:{port}/docs", PICTURES / "swagger.png", (1100, 900))
            page_with_tiles(f"http://127.0.0.1:{port}/ui/", tiles, PICTURES / "page.png")
        port = free_port()
        board = [str(BIN / "tensorboard"), "--logdir", "runs", "--port", str(port), "--load_fast=false"]
        with serving(board, f"http://127.0.0.1:{port}/", folder):
            screenshot(f"http://127.0.0.1:{port}/?darkMode=false#images", PICTURES / "tensorboard.png", (1200, 800), 60)
    for path in sorted(PICTURES.iterdir()):
        click.echo(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    console.run(main)
