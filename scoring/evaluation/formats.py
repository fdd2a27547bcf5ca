"""An evaluation as text for a person, and as CSV, Markdown and LaTeX for a paper."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from scoring.evaluation.evaluate import Evaluation
from scoring.figures.bootstrap import SEED, Interval
from scoring.figures.comparison import Comparison
from scoring.figures.summary import Value
from scoring.figures.totals import OF_A_CLASS, TOTALS

Table = tuple[list[str], list[list[str]]]  # columns, rows
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def as_text(evaluation: Evaluation) -> str:
    """Return the figures for a terminal: totals, each class, and what else was asked for."""
    lines = [head(evaluation)]
    if evaluation.seen != 0:
        lines.append(evaluation.overlap)
    width = max(len(TOTALS[name].title) for name in evaluation.shown)
    for name in evaluation.shown:
        value = evaluation.summary.totals[name]
        lines.append(f"{TOTALS[name].title:<{width}}  {number(value.value)}{_after(shown_interval(evaluation, name))}")
    lines += [note(evaluation), *_class_lines(evaluation)]
    lines += _baseline_lines(evaluation) + set_lines(evaluation)
    if evaluation.comparison is not None:
        lines += _comparison_lines(evaluation.comparison, evaluation.shown)
    return "\n".join(lines)


def as_json(evaluation: Evaluation) -> str:
    """Return one JSON object; NaN and infinity cannot get into it."""
    return json.dumps(evaluation.as_json(), allow_nan=False)


def as_csv(evaluation: Evaluation) -> str:
    """Return a line a figure, of all rows and of each class: `figure,class,value,low,high`, numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["figure", "class", "value", "low", "high"])
    for name in evaluation.shown:
        writer.writerow([name, "", *_full(evaluation.summary.totals[name].value, shown_interval(evaluation, name))])
    for label, values in zip(evaluation.classes, evaluation.summary.classes, strict=True):
        for name, value in values.items():
            writer.writerow([name, label, *_full(value.value, value.interval)])
    return buffer.getvalue().rstrip("\n")


def as_markdown(evaluation: Evaluation) -> str:
    """Return the figures as Markdown tables."""

    def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)

    return _paper(evaluation, table, lambda text: text)


def as_latex(evaluation: Evaluation) -> str:
    """Return the figures as LaTeX tables, for the package booktabs."""

    def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [r" & ".join(escape_latex(cell) for cell in cells) + r" \\" for cells in (columns, *rows)]
        body = "\n".join(lines[1:])
        form = "l" + "r" * (len(columns) - 1)
        return f"\\begin{{tabular}}{{{form}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"

    return _paper(evaluation, table, lambda text: f"% {text}")


FORMATS: dict[str, Callable[[Evaluation], str]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
}


def escape_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def _paper(
    evaluation: Evaluation,
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], str],
    remark: Callable[[str], str],
) -> str:
    """Return the tables with what must stand beside them."""
    summary = evaluation.summary
    totals = [
        [
            TOTALS[name].title,
            number(summary.totals[name].value),
            interval_text(shown_interval(evaluation, name)),
        ]
        for name in evaluation.shown
    ]
    classes = [
        [label, *(cell(values[name]) for name in OF_A_CLASS)]
        for label, values in zip(evaluation.classes, evaluation.summary.classes, strict=True)
    ]
    first = [head(evaluation) + f", {evaluation.metrics.rows} images"]
    first += [evaluation.overlap] if evaluation.seen != 0 else []
    parts = [
        "\n".join(remark(line) for line in (*first, note(evaluation))),
        table(["figure", "value", "95 % interval"], totals),
        table(["class", *(TOTALS[name].title.removesuffix(", macro") for name in OF_A_CLASS)], classes),
    ]
    if evaluation.baselines:
        rows = [[each.method, f"{each.accuracy:.3f}", f"{each.auc:.3f}"] for each in evaluation.baselines]
        parts += [remark(evaluation.baselines[0].source), table(["published", "accuracy", "AUC"], rows)]
    if evaluation.sets:
        parts += [remark(line) for line in set_lines(evaluation)]
    if evaluation.comparison is not None:
        parts.append("\n".join(remark(line) for line in comparison_head(evaluation.comparison)))
        columns = ["figure", evaluation.comparison.first, evaluation.comparison.second, "difference", "95 % interval"]
        parts.append(table(columns, comparison_rows(evaluation.comparison, evaluation.shown)))
    return "\n\n".join(parts)


def head(evaluation: Evaluation) -> str:
    """Return what was measured on what."""
    return f"{evaluation.model} on {evaluation.data}, {evaluation.split} split, {evaluation.protocol} protocol"


def note(evaluation: Evaluation) -> str:
    """Return what the intervals are."""
    count = evaluation.summary.resamples
    if not count:
        return (
            f"{evaluation.metrics.rows} images; 95 % Wilson intervals of accuracy, of each class's recall and precision"
        )
    return (
        f"{evaluation.metrics.rows} images; 95 % intervals: Wilson's of accuracy and of each class's recall and "
        f"precision, else by bootstrap ({count} resamples within classes, seed {SEED})"
    )


def shown_interval(evaluation: Evaluation, name: str) -> Interval | None:
    """Return the interval to show: of the accuracy Wilson's, as wherever else it stands."""
    return evaluation.metrics.accuracy_interval if name == "accuracy" else evaluation.summary.totals[name].interval


def _class_lines(evaluation: Evaluation) -> list[str]:
    width = max(len(label) for label in evaluation.classes)
    rows = [sum(line) for line in evaluation.metrics.confusion]
    lines = []
    for index, (label, values) in enumerate(zip(evaluation.classes, evaluation.summary.classes, strict=True)):
        predicted = sum(line[index] for line in evaluation.metrics.confusion)
        recall = cell(values["recall"]) if rows[index] else "-"
        precision = cell(values["precision"]) if predicted else "-"
        columns = f"recall {recall:<16}  precision {precision:<16}  F1 {cell(values['f1']):<16}"
        lines.append(f"  {index} {label:<{width}}  {columns}  AUC {number(values['auc'].value)}  of {rows[index]}")
    return lines


def _baseline_lines(evaluation: Evaluation) -> list[str]:
    if not evaluation.baselines:
        return []
    results = "; ".join(f"{each.method} {each.accuracy:.3f} / {each.auc:.3f}" for each in evaluation.baselines)
    return [f"published accuracy / AUC of these rows, {evaluation.baselines[0].source}: {results}"]


def set_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each kind of prediction set, and what the coverage is worth."""
    lines = []
    for each in evaluation.sets:
        low, high = each.coverage_interval
        line = (
            f"sets of {each.level:g} ({each.method}): coverage {each.coverage:.4f} ({low:.4f} to {high:.4f}), "
            f"{each.mean_size:.2f} classes on average, {each.empty:.1%} empty; thresholds of "
            f"{each.calibration_rows} validation rows"
        )
        if each.unbounded:
            names = ", ".join(evaluation.classes[index] for index in each.unbounded)
            line += f", too few for {names}, always in the set"
        lines.append(line)
    if lines:
        lines.append("the coverage is promised for rows like the validation rows; another centre's may be covered less")
    return lines


def comparison_head(comparison: Comparison) -> list[str]:
    """Return who was compared, and the test of each pair."""
    pairs = "one pair" if comparison.seeds == 1 else f"{comparison.seeds} pairs"
    lines = [f"{comparison.first} against {comparison.second}, {comparison.rows} images, {pairs}"]
    for only_first, only_second, p in zip(
        comparison.only_first_right, comparison.only_second_right, comparison.p_values, strict=True
    ):
        lines.append(
            f"only the first right {only_first}, only the second {only_second}; McNemar's exact test p = {p:.3g}"
        )
    return lines


def comparison_rows(comparison: Comparison, names: Sequence[str]) -> list[list[str]]:
    """Return for each figure its title, both values, their difference and its interval."""
    return [
        [
            TOTALS[name].title,
            number(comparison.figures[name].first),
            number(comparison.figures[name].second),
            _signed(comparison.figures[name].difference),
            interval_text(comparison.figures[name].interval, sign="+"),
        ]
        for name in names
    ]


def _comparison_lines(comparison: Comparison, names: Sequence[str]) -> list[str]:
    rows = comparison_rows(comparison, names)
    width = max(len(row[0]) for row in rows)
    lines = [f"  {row[0]:<{width}}  {row[1]} - {row[2]} = {row[3]}  ({row[4] or 'no interval'})" for row in rows]
    return [*comparison_head(comparison), *lines]


def number(value: float | None) -> str:
    """Return a figure with four decimals; a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def interval_text(interval: Interval | None, sign: str = "") -> str:
    """Return an interval with four decimals; nothing for None."""
    return "" if interval is None else f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}"


def _after(interval: Interval | None) -> str:
    return "" if interval is None else f"  ({interval_text(interval)})"


def cell(value: Value) -> str:
    """Return a figure of a class with its interval in short."""
    if value.value is None or value.interval is None:
        return number(value.value)
    return f"{value.value:.2f} ({value.interval[0]:.2f}-{value.interval[1]:.2f})"


def _full(value: float | None, interval: Interval | None) -> list[float | str]:
    return ["" if value is None else value, *(("", "") if interval is None else interval)]
