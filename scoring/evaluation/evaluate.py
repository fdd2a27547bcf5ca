"""Figures of an exported file on a labelled split; what `xeval` and `xtrain.evaluate` call."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scoring.evaluation.rivals import Rivals, compare_rivals
from scoring.figures.baselines import ORDINAL, Baseline, baselines, set_of
from scoring.figures.comparison import Comparison
from scoring.figures.rows import ScoredRows
from scoring.figures.sets import PredictionSets, measure_sets
from scoring.figures.summary import Summary, summarise
from scoring.figures.totals import risk_coverage
from scoring.options import ALL, FigureOptions, ScoringOptions, Solution
from scoring.readers import Selection, read_rows, refuse_overlap, require_labels, select_rows
from scoring.scorer import predict_rows
from scoring.solution import read_solution
from serving.model.predictor import Predictor
from xtrain import metrics
from xtrain.data.datasets import Images
from xtrain.errors import ConfigError
from xtrain.metrics import Metrics
from xtrain.options import check


@dataclass(frozen=True)
class Evaluation:
    """Figures, and what they are of.

    Attributes:
        model: name of the model.
        classes: its class names.
        data: name of the data set.
        data_md5: of its file.
        protocol: how it is divided.
        split: the rows measured.
        metrics: the figures that training and export report too.
        seen: number of images that the model was trained on, None where its file does not record them.
        overlap: the same in words.
        summary: every figure with its bootstrap interval.
        ordinal: whether the classes are ordered, so that the quadratic kappa says something.
        risk_coverage: (coverage, error rate) pairs, the most confident rows first.
        sets: conformal prediction sets, where they were asked for.
        comparison: with other models, where they were.
        baselines: published results on the same rows.
        rows: labels and probabilities of the rows, in order; not in the JSON.
        images: theirs, in order; not in the JSON.
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
    summary: Summary
    ordinal: bool = False
    risk_coverage: tuple[tuple[float, float], ...] = ()
    sets: tuple[PredictionSets, ...] = ()
    comparison: Comparison | None = None
    baselines: tuple[Baseline, ...] = ()
    rows: ScoredRows | None = field(default=None, repr=False, compare=False)
    images: Images | None = field(default=None, repr=False, compare=False)

    @property
    def shown(self) -> list[str]:
        """Names of the figures that say something of this data."""
        return [name for name in self.summary.totals if self.ordinal or name != "quadratic_kappa"]

    def as_json(self) -> dict[str, Any]:
        """Return one object of plain JSON values; fractions, not percents."""
        values = {
            "model": self.model,
            "data": self.data,
            "data_md5": self.data_md5,
            "protocol": self.protocol,
            "split": self.split,
            "seen_in_training": self.seen,
            **self.metrics.as_json(),
            "figures": {name: asdict(self.summary.totals[name]) for name in self.shown},
            "classes": [
                {"class": index, "label": label, **{name: asdict(value) for name, value in values.items()}}
                for index, (label, values) in enumerate(zip(self.classes, self.summary.classes, strict=True))
            ],
            "resamples": self.summary.resamples,
            "risk_coverage": self.risk_coverage,
            "sets": [asdict(each) for each in self.sets],
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "baselines": [asdict(each) for each in self.baselines],
        }
        return {name: _plain(value) for name, value in values.items()}

    def describe(self) -> str:
        """Return the figures as text for a person, protocol and split first."""
        from scoring.evaluation.formats import as_text

        return as_text(self)


def evaluate(
    model: Predictor | Path,
    options: ScoringOptions,
    data: str,
    solution: Solution | None = None,
    figures: FigureOptions | None = None,
    rivals: Rivals | None = None,
) -> Evaluation:
    """Measure a model on a labelled split.

    Args:
        model: an exported file, loaded or not.
        options: which split, under which protocol.
        data: name of a data set, path of an `.npz`, or a folder of pictures in folders of classes.
        solution: file with the labels that `data` holds back.
        figures: what is computed; None for the defaults.
        rivals: models to compare with.

    Raises:
        XtrainError: of the fitting kind.
    """
    figures = figures or FigureOptions()
    check(options)
    check(figures)
    if rivals is not None:
        rivals.check()
    if figures.sets is not None and options.split in ("val", ALL):
        raise ConfigError("--sets takes its thresholds from the validation rows; measure another split than these")
    predictor = model if isinstance(model, Predictor) else Predictor(model, options.device)
    card = predictor.card
    selection = read_rows(card, data, options)
    if not options.allow_overlap:
        refuse_overlap(selection)
    rows = _scored(predictor, selection, solution)
    dataset = selection.dataset
    calibration = None
    if figures.sets is not None:
        validation = select_rows(card, dataset, replace(options, split="val"))
        if not options.allow_overlap:
            refuse_overlap(validation, "--sets: ")
        calibration = _scored(predictor, validation, None)
    return Evaluation(
        model=card.name,
        classes=card.classes,
        data=dataset.name,
        data_md5=dataset.md5,
        protocol=selection.protocol,
        split=selection.split,
        metrics=metrics.evaluate(rows.labels, rows.probabilities),
        seen=selection.seen,
        overlap=selection.overlap,
        summary=summarise(rows, figures.bootstrap),
        ordinal=figures.ordinal or set_of(dataset.name) in ORDINAL,
        risk_coverage=tuple(risk_coverage(rows)),
        sets=() if calibration is None else tuple(_sets(rows, calibration, figures.sets)),
        comparison=None
        if rivals is None
        else compare_rivals(rivals, card, rows, selection, options, figures.bootstrap),
        baselines=tuple(baselines(dataset.name, selection.protocol, selection.split)),
        rows=rows,
        images=selection.rows.images,
    )


def _scored(predictor: Predictor, selection: Selection, solution: Solution | None) -> ScoredRows:
    """Return labels and probabilities of a selection.

    Raises:
        ConfigError: a solution for rows that have labels.
        DataError: rows without labels.
    """
    if solution is None:
        labels = require_labels(selection)
    elif selection.rows.labels is not None:
        raise ConfigError(f"{selection.dataset.name} has labels of its own; leave --solution out")
    else:
        labels = read_solution(solution, len(selection.rows), len(predictor.card.classes))
    return ScoredRows(labels, predict_rows(predictor, selection).astype(np.float64))


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON knows them."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _sets(rows: ScoredRows, calibration: ScoredRows, level: float | None) -> Sequence[PredictionSets]:
    """Return the sets of both methods."""
    assert level is not None
    return [measure_sets(rows, calibration, level, by_class) for by_class in (False, True)]
