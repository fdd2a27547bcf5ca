"""The access log: a JSON line a request on stdout, written some at a time, since a system call each costs requests."""

import asyncio
import atexit
import json
import sys
from datetime import UTC, datetime

DELAY = 0.1  # seconds until a line is out at the latest
LONGEST_PATH = 200


class AccessLog:
    """Lines that wait for the next write; the last ones are written when the process ends."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        atexit.register(self.write)

    def add(self, request_id: str, method: str, path: str, status: int, seconds: float) -> None:
        """Take down one request; called from the event loop."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "method": method,
            "path": path[:LONGEST_PATH],
            "status": status,
            "seconds": round(seconds, 6),
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(DELAY, self.write)
        self._lines.append(json.dumps(line) + "\n")

    def write(self) -> None:
        """Write what waits."""
        lines, self._lines = self._lines, []
        if lines:
            try:
                sys.stdout.write("".join(lines))
                sys.stdout.flush()
            except (OSError, ValueError):  # a closed pipe or file must not end requests
                pass
