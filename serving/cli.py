"""`xserve M.onnx`: the HTTP service over one exported file."""

import os
from pathlib import Path
from typing import Any, NoReturn

import click

from serving.settings import Settings
from xtrain import console
from xtrain.console import FilePath
from xtrain.errors import ConfigError, XtrainError
from xtrain.options import check, click_options, environment_variable
from xtrain.signals import ending_at_once

# Options whose files are resolved before the server changes its folder.
PATHS = ("tokens", "admin_tokens", "certificate", "key", "verify_key")


@click.command(name="xserve", context_settings=console.SETTINGS)
@click.argument("model", type=FilePath(), metavar="MODEL", envvar="XTRAIN_MODEL")
@click.option(
    "--host", default="127.0.0.1", envvar="XTRAIN_HOST", show_default=True, help="Address to listen on; 0.0.0.0: all."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    envvar="PORT",
    show_default=True,
    help="Port to listen on.",
)
@click.option("--check", "only_check", is_flag=True, help="Try model, device and memory, print a table, and end.")
@click_options(Settings, environment=True, without=("model",))
@console.shared_options
def serve(model: Path, host: str, port: int, only_check: bool, **options: Any) -> None:
    """Serve an exported file, or a folder of them, over HTTP with BentoML until SIGTERM or Ctrl-C.

    MODEL is an .onnx that xexport wrote. In a folder, models lie at NAME/VERSION/model.onnx or beside each other.

    MODEL and each option are also environment variables, such as XTRAIN_MODEL, and XTRAIN_MAX_BATCH for --max-batch;
    that of the port is PORT.
    """
    with ending_at_once():
        from serving.http.access import Authorization
        from serving.launch import Address, check_addresses, check_certificate, check_workers, grpc_address, launch
        from serving.model.devices import choose, has_driver
        from serving.scheduling.models import Models

    for name in PATHS:  # a secret that is empty must not open what it was to protect
        if os.environ.get(variable := environment_variable(name)) == "":
            raise ConfigError(f"{variable} is set and empty; name a file, or unset it")
    paths = {name: options[name].resolve() for name in PATHS if options[name]}
    settings = Settings(**{**options, **paths, "model": model.absolute()})
    check(settings)
    Authorization.read(settings)
    check_certificate(settings)
    address, grpc = Address(host, port, settings.certificate, settings.key), grpc_address(settings)
    check_workers(settings)
    for worker in range(1, settings.worker_count + 1):
        choose(settings.of_worker(worker).placement)
    if only_check:  # beside a server that may be running, so without its ports
        print_checks(settings)
        return
    check_addresses(address, grpc)
    # Every fault of the file shows here, in one line, before a server starts.
    first = settings.of_worker(1)
    repository = first.open_repository()
    Models(first, repository, lambda *_: None).start(first.model, lambda note: None)
    if has_driver():  # where a GPU could be expected, what was chosen and why is never a surprise
        choice = choose(first.placement)
        click.echo(f"note: --device {settings.device} computes with {choice.label}: {choice.reason}", err=True)
    launch(settings, address)


def print_checks(settings: Settings) -> None:
    """Print a table of what is found as it is found; exit code 1 if anything is at fault."""
    from serving.check import check_all

    faults = 0
    for finding in check_all(settings):
        faults += finding.fault
        click.echo(f"{'FAULT' if finding.fault else 'ok':5}  {finding.what:42}  {finding.found}")
    if faults:
        raise XtrainError(f"{faults} of the lines above say FAULT; mend them before this serves anybody")


def main() -> NoReturn:
    """Entry point of the console script."""
    console.run(serve)
