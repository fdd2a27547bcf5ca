"""The access log: a JSON line a request on stdout, written in groups, since a system call each costs throughput."""

import asyncio
import atexit
import json
import sys
from datetime import UTC, datetime

DELAY = 0.1  # seconds until a line is out at the latest
LONGEST_PATH = 200


class AccessLog:
    """Buffers lines for `DELAY` seconds; the last ones are written when the process ends."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        atexit.register(self.write)

    def add(self, ids: tuple[str, str], method: str, path: str, status: int, seconds: float) -> None:
        """Log one request; called from the event loop.

        Args:
            ids: of the request, and of the trace that it belongs to or an empty string.
            method: GET, POST, …
            path: the client's, of which `LONGEST_PATH` characters are logged.
            status: of the answer.
            seconds: from the head to the end of the answer.
        """
        request_id, trace_id = ids
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "method": method,
            "path": path[:LONGEST_PATH],
            "status": status,
            "seconds": round(seconds, 6),
            **({"trace_id": trace_id} if trace_id else {}),
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(DELAY, self.write)
        self._lines.append(json.dumps(line) + "\n")

    def write(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        if lines:
            try:
                sys.stdout.write("".join(lines))
                sys.stdout.flush()
            except (OSError, ValueError):  # a closed pipe or file must not end requests
                pass
