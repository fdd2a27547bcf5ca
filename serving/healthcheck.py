"""The container's health check: exit code 0 if the server is ready, by the settings of its environment.

`python -m serving.healthcheck`, with the standard library alone, so that it takes a fraction of a second.
"""

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server listens on, and what a client of it asks


def url(environment: Mapping[str, str]) -> str:
    """Return the address of `/readyz`.

    Args:
        environment: with `XTRAIN_HOST`, `PORT` and `XTRAIN_CERTIFICATE` where they are set.
    """
    host = environment.get("XTRAIN_HOST") or "127.0.0.1"
    host = ANY_ADDRESS.get(host, host)
    port = environment.get("PORT") or "3000"
    scheme = "https" if environment.get("XTRAIN_CERTIFICATE") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/readyz"


def main() -> int:
    """Ask once; print what is wrong."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by a number
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url(os.environ), timeout=4):
            return 0
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        print(f"not ready: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
