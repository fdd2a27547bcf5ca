"""The container's health check: exit code 0 if the server is ready, asked where it listens.

`python -m serving.healthcheck`, with the standard library alone, so that it takes a fraction of a second.
"""

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = "XTRAIN_ADDRESS"  # variable by which `serving.launch` tells where the server listens
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server listens on, and what a client of it asks


def url(environment: Mapping[str, str]) -> str:
    """Return the address of `/readyz`.

    Args:
        environment: of the server with `XTRAIN_ADDRESS`, or of the container with `XTRAIN_HOST`, `PORT` and
            `XTRAIN_CERTIFICATE` where they are set.
    """
    address = urlsplit(environment.get(ADDRESS, ""))
    host = address.hostname or environment.get("XTRAIN_HOST") or "127.0.0.1"
    port = str(address.port or environment.get("PORT") or 3000)
    scheme = address.scheme or ("https" if environment.get("XTRAIN_CERTIFICATE") else "http")
    host = ANY_ADDRESS.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/readyz"


def first_process() -> dict[str, str]:
    """Return the environment of the container's first process, which is the server; empty if that cannot be read."""
    try:
        entries = Path("/proc/1/environ").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return pairs if ADDRESS in pairs else {}


def main() -> int:
    """Ask once; print what is wrong."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by a number
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url(first_process() or os.environ), timeout=4):
            return 0
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        print(f"not ready: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
