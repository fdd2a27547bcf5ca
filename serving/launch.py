"""Starts the BentoML server in place of this process, so that signals and the exit code are its own."""

import errno
import importlib.util
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from serving.healthcheck import ADDRESS
from serving.model.devices import usable_cores
from serving.settings import Settings
from serving.workers.peers import FOLDER
from xtrain.errors import ConfigError, OutputError
from xtrain.options import to_environment


def check_address(host: str, port: int, option: str = "") -> None:
    """Refuse an address that cannot be listened on.

    Args:
        host: its name or number.
        port: of TCP.
        option: that both came from; `--host` and `--port` if empty.

    Raises:
        ConfigError: not an address of this machine.
        OutputError: the port is in use or not allowed.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host or "?", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{option or '--host'} {host!r} is no address ({error}); use 127.0.0.1, or 0.0.0.0 for all"
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            other = option or ("--host" if error.errno == errno.EADDRNOTAVAIL else "--port")
            reason = error.strerror or error
            raise OutputError(f"cannot listen on {host}:{port} ({reason}); choose another {other}") from error


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Attributes:
        host: an address of this machine.
        port: of TCP.
        certificate: PEM file of the chain for TLS, with the key or beside it; None for plain HTTP.
        key: PEM file of its key.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """What a client asks."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def check_certificate(settings: Settings) -> None:
    """Refuse a certificate or key that cannot be used.

    Raises:
        ConfigError: they cannot.
    """
    certificate, key = settings.certificate, settings.key
    if key is not None and certificate is None:
        raise ConfigError("--key is of no use without --certificate")
    if certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = " and ".join(str(path) for path in (certificate, key) if path)
            raise ConfigError(f"{files}: no certificate with its unencrypted key, in PEM ({error})") from error


def check_workers(settings: Settings) -> None:
    """Refuse more processes than the machine can use.

    Raises:
        ConfigError: more than a core each and a process for each GPU, or a system whose processes share no socket.
    """
    count, most = settings.worker_count, max(2, usable_cores(), len(set(settings.gpus) - {None}))
    if count > most:
        raise ConfigError(f"--devices and --workers ask for {count} processes; this machine takes {most} at most")
    if count > 1 and sys.platform == "win32":
        raise ConfigError("--devices and --workers: several processes share a socket on Linux and macOS alone")


def grpc_address(settings: Settings) -> tuple[str, int] | None:
    """Return host and port of gRPC; None if it is not asked for.

    Raises:
        ConfigError: not HOST:PORT, or gRPC is not installed.
    """
    if not settings.grpc:
        return None
    if importlib.util.find_spec("grpc") is None:
        raise ConfigError("--grpc: gRPC is not installed; install xtrain[grpc]")
    host, _, port = settings.grpc.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise ConfigError(f"--grpc {settings.grpc!r} is not HOST:PORT, such as 127.0.0.1:3001")
    return host.strip("[]"), int(port)


def check_addresses(address: Address, grpc: tuple[str, int] | None) -> None:
    """Refuse addresses that cannot be listened on.

    Raises:
        ConfigError: not of this machine, or HTTP and gRPC want the same port.
        OutputError: a port is in use or not allowed.
    """
    check_address(address.host, address.port)
    if grpc is not None:
        if grpc[1] == address.port:
            raise ConfigError(f"--grpc and --port both want port {address.port}; choose another one for --grpc")
        check_address(*grpc, option="--grpc")


def launch(settings: Settings, address: Address) -> NoReturn:
    """Replace this process by `bentoml serve` (`supervisor`) with the settings in its environment.

    Args:
        settings: what to serve; its paths are absolute.
        address: where to listen; its paths are absolute.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name != FOLDER},  # of another server
        **to_environment(settings),
        ADDRESS: address.url,
        "BENTOML_DO_NOT_TRACK": "True",  # only this word switches telemetry off
    }
    # The folder that holds the package is where the service is imported from, whatever folder the user is in.
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "serving.supervisor", "serve", "serving.service:Classifier"]
    command += ["--working-dir", root, "--host", address.host, "--port", str(address.port)]
    if address.certificate is not None:
        command += [
            "--ssl-certfile",
            str(address.certificate),
            "--ssl-keyfile",
            str(address.key or address.certificate),
        ]
    os.chdir(root)  # where -m looks first
    os.execve(sys.executable, command, environment)
