"""Starting the BentoML server in place of this process, so that signals and the exit code are its own."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from serving.scheduling.engine import variable
from xtrain.errors import OutputError


def launch(
    model: Path,
    host: str,
    port: int,
    device: str,
    limits: Mapping[str, object],
    tokens: Path | None = None,
    admins: Path | None = None,
) -> NoReturn:
    """Replace this process by `bentoml serve` over the model.

    Args:
        model: the exported file.
        host: address to listen on.
        port: port to listen on.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.
        limits: fields of `engine.Limits`.
        tokens: file of bearer tokens, None for an open door.
        admins: file of the tokens that may swap the model, None for nobody.

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
        "XTRAIN_MODEL": str(model.resolve()),
        "XTRAIN_DEVICE": device,
        **{variable(name): str(value) for name, value in limits.items()},
        **({"XTRAIN_TOKENS": str(tokens.resolve())} if tokens else {}),
        **({"XTRAIN_ADMIN_TOKENS": str(admins.resolve())} if admins else {}),
        "BENTOML_DO_NOT_TRACK": "True",  # only this word switches telemetry off
    }
    # The package's own parent is where the service is imported from, whatever folder the user is in.
    home = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Classifier"]
    command += ["--working-dir", home, "--host", host, "--port", str(port)]
    os.execve(sys.executable, command, environment)
