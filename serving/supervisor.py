"""`bentoml serve`, whose supervisor passes SIGHUP on to the workers: `python -m serving.supervisor serve SERVICE …`.

BentoML's own ends every worker at SIGHUP and starts another one, so a file that cannot be loaded ends the service.
"""

from bentoml_cli.cli import cli
from circus import controller
from circus.client import make_json
from circus.sighandler import SysHandler

WATCHER = "service"  # BentoML's name of what starts the workers


class Handler(SysHandler):  # type: ignore[misc]
    """Circus' handler of signals, with another SIGHUP."""

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
