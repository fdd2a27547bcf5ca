"""Train, export, load, evaluate and score image classifiers; for research, not for diagnosis.

    import xtrain

    run = xtrain.train("simplecnn", data="digits", epochs=8)
    xtrain.export(run, "digits.onnx")
    predictor = xtrain.load("digits.onnx")
    predictor.classify("digit.png")

Importing loads neither torch nor onnxruntime; each function loads what it needs when it is called. Every fault of the
input is an `XtrainError` whose message says what is wrong and what to do.
"""

from typing import TYPE_CHECKING, Any

from xtrain.api import evaluate, export, load, open_run, score, train
from xtrain.errors import XtrainError

if TYPE_CHECKING:
    from serving.client import AsyncClient, Client, ServerError
    from serving.model.card import Card
    from serving.model.predictor import Predictor
    from training.runs.folder import Run

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Card",
    "Client",
    "Predictor",
    "Run",
    "ServerError",
    "XtrainError",
    "__version__",
    "evaluate",
    "export",
    "load",
    "open_run",
    "score",
    "train",
]
_CLASSES = {
    "AsyncClient": "serving.client",
    "Client": "serving.client",
    "Card": "serving.model.card",
    "Predictor": "serving.model.predictor",
    "Run": "training.runs.folder",
    "ServerError": "serving.client",
}


def __getattr__(name: str) -> Any:
    """Load a class of the API when it is first used (PEP 562)."""
    if name in _CLASSES:
        import importlib

        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'xtrain' has no attribute {name!r}")
