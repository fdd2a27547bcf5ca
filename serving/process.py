"""What a server's process sets for itself, once its model is loaded."""

import gc
import logging


def settle() -> None:
    """Spare every request what only costs it time."""
    # What is loaded by now stays: the collector need not look at it again, nor look for the little that requests leave
    # after every few of them. Its pauses were most of the slowest hundredth of the answers.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    logging.getLogger("uvicorn.access").propagate = False  # or uvicorn prepares a line a request that nobody writes
