"""`bentoml serve`, whose supervisor passes SIGHUP on to the workers: `python -m serving.supervisor serve SERVICE …`.

BentoML's own ends every worker at SIGHUP and starts another one, so a file that cannot be loaded ends the service.
"""

import os
import signal
from contextlib import suppress

from bentoml_cli.cli import cli
from circus import controller
from circus.client import make_json
from circus.sighandler import SysHandler

WATCHER = "service"  # BentoML's name of what starts the workers


class Handler(SysHandler):  # type: ignore[misc]
    """Circus' handler of signals, with another SIGHUP, and a second SIGTERM."""

    is_ending = False

    def handle_term(self) -> None:
        """End the workers in order; the second time at once, which circus would not tell them."""
        self._end_again()
        super().handle_term()

    def handle_int(self) -> None:
        """As SIGTERM."""
        self._end_again()
        super().handle_int()

    def _end_again(self) -> None:
        if self.is_ending:
            for watcher in self.controller.arbiter.watchers:
                for pid in watcher.get_active_pids():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        self.is_ending = True

    def handle_hup(self) -> None:
        """Send it to every worker."""
        passed = make_json("signal", name=WATCHER, signum="hup")
        self.controller.loop.add_callback_from_signal(self.controller.dispatch, (None, passed))


def main() -> None:
    """Run BentoML's command line."""
    controller.SysHandler = Handler  # it takes no other one from its caller
    cli()


if __name__ == "__main__":
    main()
