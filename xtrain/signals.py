"""Ctrl-C and SIGTERM at moments when an exception would be lost: while libraries are imported."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "error: interrupted; nothing half-written was left behind\n"


@contextmanager
def deferred() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends; then the handlers that were there get them.

    Libraries catch everything around their own imports (`except:`), and go on as if nothing had happened.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}
    for number in STOPPING:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, lambda signum, _: received.append(signum))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process at once on Ctrl-C or SIGTERM, with one line and exit code 1, while nothing has begun.

    No exception is raised that a library could swallow, and none that would show a traceback.
    """
    before = {number: signal.getsignal(number) for number in STOPPING}
    end_at_once()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once() -> None:
    """From now on end the process on Ctrl-C or SIGTERM; a signal that the parent had ignored stays so (`nohup`)."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def raise_interrupt() -> None:
    """From now on raise KeyboardInterrupt on Ctrl-C and on SIGTERM, so that what was begun is ended in order."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = _raise_again


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise a KeyboardInterrupt once more that a library's C or Rust code could not pass on, instead of printing it."""
    taken = [number for number in STOPPING if signal.getsignal(number) is signal.default_int_handler]
    if not issubclass(unraisable.exc_type, KeyboardInterrupt) or not taken:
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(0.05, _interrupt, [taken[0]])  # not at once: it would be raised in here, and lost again
    again.daemon = True
    again.start()


def _interrupt(number: signal.Signals) -> None:
    if hasattr(signal, "pthread_kill"):  # what the main thread waits for is interrupted too
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def _end(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
        os.write(2, MESSAGE.encode())
    os._exit(1)
