"""The memory budget: what bodies, and what decoding them, may take in all requests under way together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

FREE_BYTES = 64 * 1024  # of each request, so that single images are answered whatever larger bodies take


class MemoryExhausted(Exception):
    """Other requests have the memory; `retry_after` seconds from now there may be room."""

    def __init__(self, budget: int, retry_after: int = 1) -> None:
        super().__init__(
            f"the requests under way have the {budget} bytes that they may take; try again in {retry_after} s"
        )
        self.retry_after = retry_after


class MemoryBudget:
    """Counts the bytes that requests have reserved of `size`; safe from any thread."""

    def __init__(self, size: int) -> None:
        self.size, self.reserved, self.lock = size, 0, threading.Lock()

    def reservation(self) -> "Reservation":
        """Return an empty reservation for one request."""
        return Reservation(self)


class Reservation:
    """One request's part of the budget, from its first byte to the end of its response.

    The first `FREE_BYTES` count nothing, and the only request that reserves anything always gets it.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._length, self._counted, self._released = budget, 0, 0, False

    def reserve(self, length: int) -> None:
        """Reserve so many bytes more.

        Raises:
            MemoryExhausted: other requests have them.
        """
        with self._budget.lock:
            counted = max(0, self._length + length - FREE_BYTES)
            others = self._budget.reserved - self._counted
            if counted and others and others + counted > self._budget.size:
                raise MemoryExhausted(self._budget.size)
            if not self._released:
                self._length += length
                self._budget.reserved, self._counted = others + counted, counted

    def reduce(self, length: int) -> None:
        """Return so many bytes to the budget."""
        with self._budget.lock:
            if not self._released:
                self._length -= length
                counted = max(0, self._length - FREE_BYTES)
                self._budget.reserved += counted - self._counted
                self._counted = counted

    @contextmanager
    def holding(self, length: int) -> Iterator[None]:
        """Reserve so many bytes for the time of the context.

        Raises:
            MemoryExhausted: other requests have them.
        """
        self.reserve(length)
        try:
            yield
        finally:
            self.reduce(length)

    def release(self) -> None:
        """Return everything to the budget; later reservations count nothing."""
        with self._budget.lock:
            self._budget.reserved -= self._counted
            self._counted, self._released = 0, True
