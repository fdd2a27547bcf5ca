"""The report of `xeval --report`: one HTML file without scripts or addresses, which opens from any disk and prints.

Flows in: an evaluation, the model, the command that asked for it. Flows out: text; the same inputs give the same bytes.
"""

import shlex
from collections.abc import Sequence
from html import escape
from math import ceil
from pathlib import Path

from scoring.evaluation.evaluate import Evaluation
from scoring.evaluation.formats import (
    cell,
    comparison_head,
    comparison_rows,
    head,
    interval_text,
    note,
    number,
    set_lines,
    shown_interval,
)
from scoring.figures.rows import ScoredRows
from scoring.figures.totals import OF_A_CLASS, TOTALS
from scoring.report.charts import Axis, Curve, chart, legend, roc_curve
from scoring.report.pictures import Shown, choose_pictures
from serving.model.card import Card
from serving.model.predictor import Predictor
from xtrain.errors import ConfigError
from xtrain.files import open_atomic, refuse_existing, refuse_inputs
from xtrain.metrics import calibration_bins

MATRIX_CLASSES = 40  # beyond, the most frequent confusions are listed instead
CONFUSIONS = 30
SHADE = 0.75  # of the darkest cell, so that black on it is still read
ROC_CLASSES = 12
PICTURES = (
    "Of each true class the surest mistakes, then the images whose most probable class is least sure. Under each: what "
    "it was taken for with its probability, and its row in the split."
)
HEATMAPS = "The second picture shows in yellow where the evidence for that class lies (Grad-CAM)."
NO_HEATMAPS = "The model was exported without heatmaps (--explain)."
MATRIX = "Rows are true classes and add up to 1, columns what they were taken for. Counts show under the pointer."
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def check_report(path: Path, inputs: Sequence[str | Path], overwrite: bool) -> None:
    """Refuse a place for a report before anything is computed.

    Raises:
        ConfigError: a name that does not end in .html.
        OutputError: it is read by the command, exists and `overwrite` is off, or cannot be written.
    """
    refuse_inputs(path, inputs)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: the report is HTML; name a file that ends in .html")
    refuse_existing(path, overwrite)


def write_report(evaluation: Evaluation, predictor: Predictor, command: Sequence[str], path: Path) -> None:
    """Write the report, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = report(evaluation, predictor, command)
    with open_atomic(path, "w") as file:
        file.write(text)


def report(evaluation: Evaluation, predictor: Predictor, command: Sequence[str]) -> str:
    """Return the page.

    Args:
        evaluation: with its rows and images.
        predictor: the model that was measured.
        command: the words that asked for it.
    """
    rows, images, card = evaluation.rows, evaluation.images, predictor.card
    assert rows is not None and images is not None
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = escape(head(evaluation))
    body = [
        f"<h1>{title}</h1>",
        f"<p>{evaluation.metrics.rows} images.</p>",
        f'<p class="notice"><strong>{escape(card.intended_use)}</strong></p>',
        f'<p class="notice">{escape(evaluation.overlap)}</p>' if evaluation.seen != 0 else "",
        "<h2>Figures</h2>",
        *_figures(evaluation),
        "<h2>Confusion</h2>",
        _confusion(evaluation),
        "<h2>Curves</h2>",
        _curves(evaluation, rows),
        "<h2>Mistakes and doubts</h2>",
        f"<p>{PICTURES} {HEATMAPS if predictor.has_heatmap else NO_HEATMAPS}</p>",
        *_pictures(evaluation, rows, predictor),
        "<h2>Model</h2>",
        _model(card, predictor),
        "<h2>How this was made</h2>",
        _commands(card, predictor, command),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """Return an HTML table of plain texts."""
    first = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="{name}"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _figures(evaluation: Evaluation) -> list[str]:
    summary = evaluation.summary
    totals = [
        [
            TOTALS[name].title,
            number(summary.totals[name].value),
            interval_text(shown_interval(evaluation, name)),
        ]
        for name in evaluation.shown
    ]
    support = [sum(line) for line in evaluation.metrics.confusion]
    classes = [
        [f"{index} {label}", *(cell(values[name]) for name in OF_A_CLASS), str(support[index])]
        for index, (label, values) in enumerate(zip(evaluation.classes, evaluation.summary.classes, strict=True))
    ]
    parts = [
        table(["figure", "value", "95 % interval"], totals),
        f"<p>{escape(note(evaluation))}.</p>",
        table(["class", *(TOTALS[name].title.removesuffix(", macro") for name in OF_A_CLASS), "images"], classes),
    ]
    if evaluation.baselines:
        published = [[each.method, f"{each.accuracy:.3f}", f"{each.auc:.3f}"] for each in evaluation.baselines]
        parts.append(f"<h3>Published for these rows: {escape(evaluation.baselines[0].source)}</h3>")
        parts.append(table(["method", "accuracy", "AUC"], published))
    if evaluation.sets:
        parts.append("<h3>Prediction sets</h3>")
        parts += [f"<p>{escape(line)}.</p>" for line in set_lines(evaluation)]
    if evaluation.comparison is not None:
        first, *tests = comparison_head(evaluation.comparison)
        parts.append(f"<h3>{escape(first)}</h3>")
        parts += [f"<p>{escape(line)}.</p>" for line in tests]
        columns = ["figure", "first", "second", "difference", "95 % interval"]
        parts.append(table(columns, comparison_rows(evaluation.comparison, evaluation.shown)))
    return parts


def _confusion(evaluation: Evaluation) -> str:
    """Return the matrix, rows normalised, or of many classes the most frequent confusions."""
    matrix, names = evaluation.metrics.confusion, evaluation.classes
    if len(names) > MATRIX_CLASSES:
        wrong = [
            (matrix[true][taken], names[true], names[taken])
            for true in range(len(names))
            for taken in range(len(names))
            if true != taken and matrix[true][taken]
        ]
        most = sorted(wrong, key=lambda entry: -entry[0])[:CONFUSIONS]
        return table(["true class", "taken for", "images"], [[true, taken, str(count)] for count, true, taken in most])
    top = "".join(f'<th scope="col" title="{escape(name)}">{index}</th>' for index, name in enumerate(names))
    lines = []
    for true, line in enumerate(matrix):
        total, cells = sum(line), []
        for taken, count in enumerate(line):
            share = count / total if total else 0.0
            colour = f"background: rgb(0 114 178 / {SHADE * share:.2f})"
            text = escape(f"{count} of {total} {names[true]} taken for {names[taken]}")
            cells.append(f'<td style="{colour}" title="{text}">{f"{share:.2f}" if count else "·"}</td>')
        lines.append(f'<tr><th scope="row">{true} {escape(names[true])}</th>{"".join(cells)}</tr>')
    return (
        f"<p>{MATRIX}</p>"
        f'<div class="wide"><table class="confusion"><thead><tr><th scope="col">true class</th>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _curves(evaluation: Evaluation, rows: ScoredRows) -> str:
    bins = calibration_bins(rows.labels, rows.probabilities)
    bars = [(part, f"{part.rows} images, confidence {part.confidence:.3f}, right {part.accuracy:.3f}") for part in bins]
    ideal = Curve("perfectly calibrated", [(0, 0), (1, 1)], dashed=True)
    largest = max([share for _, share in evaluation.risk_coverage], default=0)
    error = max(1, ceil(10 * largest)) / 10
    risk = Curve("error rate of the most confident images", evaluation.risk_coverage)
    areas = {index: values["auc"].value for index, values in enumerate(evaluation.summary.classes)}
    defined = [(area, index) for index, area in areas.items() if area is not None]
    curves = [
        Curve(f"{index} {evaluation.classes[index]}, AUC {areas[index]:.3f}", roc_curve(rows, index))
        for index in sorted(index for _, index in sorted(defined)[:ROC_CLASSES])
    ]
    chance = Curve("chance", [(0, 0), (1, 1)], dashed=True)
    of_many = f" of the {ROC_CLASSES} classes with the smallest area" if len(areas) > ROC_CLASSES else ""
    ece = number(evaluation.summary.totals["ece"].value)
    augrc = number(evaluation.summary.totals["augrc"].value)
    return "".join(
        [
            '<div class="charts"><figure>',
            chart("Reliability diagram", Axis("confidence"), Axis("share right"), [ideal], bars),
            f"<figcaption>Reliability: bars below the line are overconfident. ECE {ece}.</figcaption></figure><figure>",
            chart("Risk-coverage curve", Axis("coverage"), Axis("error rate", error), [risk]),
            "<figcaption>Risk and coverage: the error rate if only the most confident share is answered. "
            f"AUGRC {augrc}.</figcaption></figure><figure>",
            chart("ROC curves", Axis("false positive rate"), Axis("true positive rate"), [chance, *curves]),
            f"<figcaption>ROC, each class against the others{of_many}.</figcaption></figure>",
            legend(curves),
            "</div>",
        ]
    )


def _pictures(evaluation: Evaluation, rows: ScoredRows, predictor: Predictor) -> list[str]:
    assert evaluation.images is not None
    parts, chosen = [], choose_pictures(rows, evaluation.images, predictor)
    for group in chosen:
        name = f"{group.index} {evaluation.classes[group.index]}"
        parts.append(f'<div class="class"><h3>{escape(name)}: {group.wrong} of {group.rows} wrong</h3>')
        parts += _strip("surest mistakes", group.mistakes, evaluation.classes)
        parts += [*_strip("least sure", group.uncertain, evaluation.classes), "</div>"]
    present = sum(1 for line in evaluation.metrics.confusion if sum(line))
    if len(chosen) < present:
        parts.append(f"<p>The {len(chosen)} classes with the most mistakes, of {present}.</p>")
    return parts


def _strip(name: str, shown: Sequence[Shown], classes: Sequence[str]) -> list[str]:
    if not shown:
        return []
    figures = []
    for each in shown:
        right = each.label == each.predicted
        text = f"{'right' if right else classes[each.predicted]} {each.probability:.2f}"
        text += "" if right else f" (true class {each.label_probability:.2f})"
        alternative = escape(f"Row {each.row}, {classes[each.label]}")
        pictures = f'<img src="{each.picture}" alt="{alternative}">'
        if each.heatmap is not None:
            pictures += f'<img src="{each.heatmap}" alt="{alternative}, with the evidence in yellow">'
        figures.append(f"<figure>{pictures}<figcaption>{escape(text)}, row {each.row}</figcaption></figure>")
    return [f"<p>{name}</p>", f'<div class="pictures">{"".join(figures)}</div>']


def _model(card: Card, predictor: Predictor) -> str:
    members = [
        [
            member.architecture,
            str(member.seed),
            str(member.epoch),
            str(member.crop or member.image_size),
            f"{member.weight:.3f}",
            member.digest[:12],
        ]
        for member in card.members
    ]
    data, calibration = card.data, card.calibration
    facts = [
        ["name, version", f"{card.name}, {card.version}"],
        ["SHA-256", predictor.digest],
        ["trained on", f"{data.name}, {data.protocol} protocol, licence {data.licence}"],
        ["md5 of its file", data.md5],
        ["rows", ", ".join(f"{count} {name}" for name, count in data.rows.items())],
        ["input", f"{' x '.join(map(str, card.shape))} uint8, {card.input.colour}"],
        ["views", "the eight flips and quarter turns" if card.tta else "one"],
        ["temperature", f"{calibration.temperature:.3f}" if calibration else "none"],
        ["precision", card.precision],
        ["computed on", predictor.label],
        ["made by commit", card.git_commit or "unknown"],
        ["with", ", ".join(f"{name} {version}" for name, version in sorted(card.packages.items()))],
    ]
    columns = ["architecture", "seed", "epoch", "pixels", "weight", "weights' SHA-256"]
    return table(columns, members) + table(["property", "value"], facts)


def _commands(card: Card, predictor: Predictor, command: Sequence[str]) -> str:
    """Return the command of this report, and what the card says of those before it."""
    asked = escape(shlex.join(command))
    trained = "; ".join(f"{member.architecture}, seed {member.seed}" for member in card.members)
    return (
        f"<pre>{asked}</pre><p>The model {escape(predictor.path.name)} holds {escape(trained)}, trained on "
        f"{escape(card.data.name)} (split seed {card.data.split_seed}); the options of each training are in the "
        "config.json of its run, whose weights have the digest above.</p>"
    )
