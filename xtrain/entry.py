"""Entry points of the console scripts: each takes the signals before it imports anything that takes time."""

from typing import NoReturn

from xtrain.signals import end_at_once


def train() -> NoReturn:
    """Run `xtrain`."""
    end_at_once()
    from training.cli import main

    main()


def export() -> NoReturn:
    """Run `xexport`."""
    end_at_once()
    from export.cli import main

    main()


def evaluate() -> NoReturn:
    """Run `xeval`."""
    end_at_once()
    from scoring.cli import evaluate_main

    evaluate_main()


def score() -> NoReturn:
    """Run `xscore`."""
    end_at_once()
    from scoring.cli import score_main

    score_main()


def predict() -> NoReturn:
    """Run `xpredict`."""
    end_at_once()
    from scoring.cli import predict_main

    predict_main()


def serve() -> NoReturn:
    """Run `xserve`."""
    end_at_once()
    from serving.cli import main

    main()
