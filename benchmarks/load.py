"""The client side of a serving benchmark: whole HTTP requests over keep-alive connections, from a process of its own.

Closed loop: a connection sends its next request when the last is answered, which finds the highest rate. Open loop:
requests come at their own times whether or not the last is answered, as users do; the time until a connection is free
counts. A bare protocol on uvloop, so that the load takes little of the machine that it shares with the server.
"""

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop


@dataclass(frozen=True)
class Load:
    """What one measurement gave: seconds of each answer, errors, the seconds it took, and those of the server's CPU."""

    latencies: list[float]
    errors: int
    seconds: float
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_a_request(self) -> float:
        """Microseconds that the server computed for one answer."""
        return 1e6 * self.cpu / len(self.latencies) if self.latencies else float("nan")

    def percentile(self, share: float) -> float:
        """Latency in milliseconds."""
        return float(np.percentile(self.latencies, share)) * 1000 if self.latencies else float("nan")


class Connection(asyncio.Protocol):
    """One request at a time; tells when it is answered, and whether with 200."""

    def __init__(self, answered: Callable[["Connection", bool], None]) -> None:
        self.answered = answered
        self.began = 0.0
        self.alive, self.busy = True, False
        self._received, self._missing, self._good = b"", -1, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def send(self, request: bytes, began: float) -> None:
        """Send a whole request whose time counts from `began`."""
        self.began, self.busy, self._received, self._missing = began, True, b"", -1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count the answer's bytes as its head declares them."""
        if self._missing < 0:
            self._received += data
            head, end, body = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._good = head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            self._missing = length - len(body)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self.busy = False
            self.answered(self, self._good)

    def connection_lost(self, error: Exception | None) -> None:
        """An answer that will not come is an error."""
        self.alive = False
        if self.busy:
            self.busy = False
            self.answered(self, False)


def drive(port: int, requests: list[bytes], connections: int, seconds: float, rate: float | None = None) -> Load:
    """Send the requests in turn for some seconds.

    Args:
        port: on 127.0.0.1.
        requests: whole HTTP requests.
        connections: how many, all open before the first request.
        seconds: how long requests are sent; answers are awaited beyond.
        rate: requests a second at the times of a Poisson process (open loop); None for a closed loop.
    """
    gc.disable()  # the load's own pauses are not the server's
    return uvloop.run(_drive(port, requests, connections, seconds, rate))


async def _drive(port: int, requests: list[bytes], connections: int, seconds: float, rate: float | None) -> Load:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    errors = sent = 0
    waiting: deque[float] = deque()  # times of the open loop's requests that have no connection yet
    free: list[Connection] = []
    everyone: list[Connection] = []
    over = loop.create_future()

    def send(connection: Connection, began: float) -> None:
        nonlocal sent
        sent += 1
        connection.send(requests[sent % len(requests)], began)

    def answered(connection: Connection, good: bool) -> None:
        nonlocal errors
        now = time.perf_counter()
        if good:
            latencies.append(now - connection.began)
        else:
            errors += 1
        if connection.alive and rate is None and now < end:
            send(connection, now)
        elif connection.alive and waiting:
            send(connection, waiting.popleft())
        elif connection.alive:
            free.append(connection)
        finish(now)

    def finish(now: float) -> None:
        if now < end and any(connection.alive for connection in everyone):
            return
        if not waiting and not any(connection.busy for connection in everyone) and not over.done():
            over.set_result(None)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
        everyone.append(connection)
    start = time.perf_counter()
    end = start + seconds
    if rate is None:
        for connection in everyone:
            send(connection, start)
    else:
        free.extend(everyone)
        due, chance = start, random.Random(0)
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            free = [connection for connection in free if connection.alive]
            if free:
                send(free.pop(), due)
            else:
                waiting.append(due)
        await asyncio.sleep(max(0.0, end - time.perf_counter()))
        finish(end)
    try:
        await asyncio.wait_for(over, max(0.0, end - time.perf_counter()) + 30)
    except TimeoutError:
        errors += len(waiting) + sum(connection.busy for connection in everyone)
    took = time.perf_counter() - start
    for connection in everyone:
        connection.busy = False
        connection.transport.close()
    return Load(latencies, errors, took)
