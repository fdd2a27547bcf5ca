"""Metrics of an exported file on a labelled split; what `xeval` and `xtrain.evaluate` call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.options import ScoringOptions, Solution
from scoring.readers import read_rows, refuse_overlap, require_labels
from scoring.score import predict_rows
from scoring.solution import read_solution
from serving.model.predictor import Predictor
from xtrain import metrics
from xtrain.errors import ConfigError
from xtrain.metrics import Metrics
from xtrain.options import check


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and what they are of.

    `seen` is the number of images that the model was trained on, None where its file does not record them; `overlap`
    says it in words.
    """

    model: str
    classes: tuple[str, ...]
    data: str
    data_md5: str
    protocol: str
    split: str
    metrics: Metrics
    seen: int | None
    overlap: str

    def as_json(self) -> dict[str, Any]:
        """Return one flat object of plain JSON values; fractions, not percents."""
        return {
            "model": self.model,
            "data": self.data,
            "data_md5": self.data_md5,
            "protocol": self.protocol,
            "split": self.split,
            "seen_in_training": self.seen,
            **self.metrics.as_json(),
        }

    def describe(self) -> str:
        """Return the figures as text for a person, protocol and split first."""
        head = f"{self.model} on {self.data}, {self.split} split, {self.protocol} protocol"
        if self.seen != 0:
            head += f"\n{self.overlap}"
        return f"{head}\n{metrics.format_metrics(self.metrics, self.classes)}"


def evaluate(
    model: Predictor | Path, options: ScoringOptions, data: str, solution: Solution | None = None
) -> Evaluation:
    """Measure a model on a labelled split.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set, path of an `.npz`, or a folder of pictures in folders of classes.
        solution: file with the labels that `data` holds back.

    Raises:
        XtrainError: of the fitting kind.
    """
    check(options)
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    card = predictor.card
    selection = read_rows(card, data, options)
    if not options.allow_overlap:
        refuse_overlap(selection)
    if solution is not None:
        if selection.rows.labels is not None:
            raise ConfigError(f"{selection.dataset.name} has labels of its own; leave --solution out")
        labels = read_solution(solution, len(selection.rows), len(card.classes))
    else:
        labels = require_labels(selection)
    measured = metrics.evaluate(labels, predict_rows(predictor, selection))
    dataset = selection.dataset
    return Evaluation(
        model=card.name,
        classes=card.classes,
        data=dataset.name,
        data_md5=dataset.md5,
        protocol=selection.protocol,
        split=selection.split,
        metrics=measured,
        seen=selection.seen,
        overlap=selection.overlap,
    )
