"""Starts the BentoML server in place of this process, so that signals and the exit code are its own."""

import errno
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from serving.settings import Settings
from xtrain.errors import ConfigError, OutputError
from xtrain.options import to_environment

ADDRESS = "XTRAIN_ADDRESS"  # environment variable; the worker tells it once it listens


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        ConfigError: not an address of this machine.
        OutputError: the port is in use or not allowed.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host or "?", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host!r} is no address ({error}); use 127.0.0.1, or 0.0.0.0 for all") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            other = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
            reason = error.strerror or error
            raise OutputError(f"cannot listen on {host}:{port} ({reason}); choose another {other}") from error


def launch(settings: Settings, host: str, port: int) -> NoReturn:
    """Replace this process by `bentoml serve` with the settings in its environment.

    Args:
        settings: what to serve; its paths are absolute.
        host: address to listen on.
        port: port to listen on.
    """
    environment = {
        **os.environ,
        **to_environment(settings),
        ADDRESS: f"http://{f'[{host}]' if ':' in host else host}:{port}",
        "BENTOML_DO_NOT_TRACK": "True",  # only this word switches telemetry off
    }
    # The folder that holds the package is where the service is imported from, whatever folder the user is in.
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Classifier"]
    command += ["--working-dir", root, "--host", host, "--port", str(port)]
    os.execve(sys.executable, command, environment)
