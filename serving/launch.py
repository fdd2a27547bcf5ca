"""Starts the BentoML server in place of this process, so that signals and the exit code are its own."""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from serving.settings import Settings
from xtrain.errors import OutputError
from xtrain.options import to_environment


def launch(settings: Settings, host: str, port: int) -> NoReturn:
    """Replace this process by `bentoml serve` with the settings in its environment.

    Args:
        settings: what to serve; its paths are made absolute.
        host: address to listen on.
        port: port to listen on.

    Raises:
        OutputError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OutputError(
                f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port"
            ) from error
    environment = {
        **os.environ,
        **to_environment(settings),
        "BENTOML_DO_NOT_TRACK": "True",  # only this word switches telemetry off
    }
    # The folder that holds the package is where the service is imported from, whatever folder the user is in.
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Classifier"]
    command += ["--working-dir", root, "--host", host, "--port", str(port)]
    os.execve(sys.executable, command, environment)
