"""What an operator's signals do in a worker: SIGTERM makes it unready before it ends, SIGHUP reads files anew."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from starlette.applications import Starlette

from serving import process
from serving.http.repository import reload_changed, to_the_end
from serving.scheduling.models import NoModel


def install(app: Starlette, drain: float) -> None:
    """Take SIGTERM and SIGHUP from now on; called on the event loop, after uvicorn has its own handlers.

    Args:
        app: with its models loaded.
        drain: seconds between the first SIGTERM, from when on the app is not ready, and the end that uvicorn brings
            about. A second SIGTERM, or Ctrl-C, does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop, end = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def reload(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(lambda: loop.create_task(_reload(app)))

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    if drain and callable(end):
        signal.signal(signal.SIGTERM, _Drain(app, drain, end))


async def _reload(app: Starlette) -> None:
    try:
        await to_the_end(app, reload_changed(app))
    except NoModel as error:
        process.say(f"note: SIGHUP: nothing was read ({error})")


class _Drain:
    """A handler of SIGTERM that calls the one before it after some seconds, or at once the second time."""

    def __init__(self, app: Starlette, seconds: float, end: Callable[..., Any]) -> None:
        self._app, self._seconds, self._end = app, seconds, end
        self._loop = asyncio.get_running_loop()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Stop being ready; end later."""
        if self._app.state.models.draining:
            self._end(number, frame)
            return
        self._app.state.models.draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, self._seconds, self._end, number, None)
