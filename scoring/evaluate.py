"""Metrics of an exported file on a labelled split; what `xeval` and `xtrain.evaluate` call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.options import ScoringOptions
from scoring.readers import read_rows, read_solution, require_labels
from scoring.score import predict_rows
from serving.model.predictor import Predictor
from xtrain import metrics
from xtrain.metrics import Metrics
from xtrain.options import check


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and what they are of."""

    model: str
    classes: tuple[str, ...]
    data: str
    data_md5: str
    protocol: str
    split: str
    metrics: Metrics

    def as_json(self) -> dict[str, Any]:
        """Return one flat object of plain JSON values; fractions, not percents."""
        return {
            "model": self.model,
            "data": self.data,
            "data_md5": self.data_md5,
            "protocol": self.protocol,
            "split": self.split,
            **self.metrics.as_json(),
        }

    def describe(self) -> str:
        """Return the figures as text for a person, protocol and split first."""
        head = f"{self.model} on {self.data}, {self.split} split, {self.protocol} protocol"
        return f"{head}\n{metrics.format_metrics(self.metrics, self.classes)}"


def evaluate(model: Predictor | Path, options: ScoringOptions, data: str, solution: Path | None = None) -> Evaluation:
    """Measure a model on a labelled split.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set or path of an `.npz`.
        solution: `ID,CLASS` file with the labels that `data` holds back.

    Raises:
        XtrainError: of the fitting kind.
    """
    check(options)
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    card = predictor.card
    selection = read_rows(card, data, options)
    if solution is not None:
        labels = read_solution(solution, len(selection.rows), len(card.classes))
    else:
        labels = require_labels(selection)
    measured = metrics.evaluate(labels, predict_rows(predictor, selection))
    dataset = selection.dataset
    return Evaluation(card.name, card.classes, dataset.name, dataset.md5, selection.protocol, selection.split, measured)
