"""Curves and diagrams as SVG: no library, no script, readable on paper and by a screen reader.

Flows in: numbers in [0, 1]. Flows out: `<svg>` elements with their axes; every mark has a title, which a browser shows
when the pointer is on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from scoring.figures.rows import ScoredRows
from xtrain.metrics import Bin

SIZE, LEFT, BOTTOM, TOP, RIGHT = 300, 54, 40, 8, 10  # pixels: the plot's side and its margins
# Told apart by colour-blind readers and in grey print (Okabe & Ito 2008); beyond them, dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
DASHES = ("", "6 3", "2 3")
CURVE_POINTS = 200

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A line of a chart, its points (x, y) in data units, with its name."""

    name: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """Name and range of an axis."""

    name: str
    high: float = 1.0


def chart(title: str, x: Axis, y: Axis, curves: Sequence[Curve], bars: Sequence[tuple[Bin, str]] = ()) -> str:
    """Return a chart of curves, over bars where there are any.

    Args:
        title: what it shows, for those who cannot see it.
        x: horizontal axis.
        y: vertical axis.
        curves: lines, coloured in order; dashed ones are grey.
        bars: bins of equal width with the text that their pointer shows.
    """
    width, height = SIZE + LEFT + RIGHT, SIZE + BOTTOM + TOP

    def place(point: Point) -> str:
        return f"{LEFT + point[0] / x.high * SIZE:.1f},{TOP + SIZE - point[1] / y.high * SIZE:.1f}"

    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"',
        f' aria-label="{escape(title)}">',
        f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" class="frame"/>',
    ]
    for step in range(5):
        share = step / 4
        at_x, at_y = LEFT + share * SIZE, TOP + SIZE - share * SIZE
        parts.append(f'<text x="{at_x:.1f}" y="{TOP + SIZE + 15}" text-anchor="middle">{_tick(share * x.high)}</text>')
        parts.append(f'<text x="{LEFT - 5}" y="{at_y + 4:.1f}" text-anchor="end">{_tick(share * y.high)}</text>')
        parts.append(f'<path d="M{LEFT} {at_y:.1f}h{SIZE}" class="grid"/>')
    parts += [
        f'<text x="{LEFT + SIZE / 2}" y="{height - 6}" text-anchor="middle">{escape(x.name)}</text>',
        f'<text transform="translate(12 {TOP + SIZE / 2}) rotate(-90)" text-anchor="middle">{escape(y.name)}</text>',
    ]
    for part, text in bars:
        bar = f'x="{LEFT + part.low * SIZE:.1f}" y="{TOP + SIZE * (1 - part.accuracy):.1f}"'
        size = f'width="{(part.high - part.low) * SIZE:.1f}" height="{part.accuracy * SIZE:.1f}"'
        parts.append(f'<rect {bar} {size} class="bar"><title>{escape(text)}</title></rect>')
    for curve, style in zip(curves, styles(curves), strict=True):
        points = " ".join(place(point) for point in curve.points)
        parts.append(f'<polyline points="{points}" fill="none" {style}><title>{escape(curve.name)}</title></polyline>')
    return "".join([*parts, "</svg>"])


def styles(curves: Sequence[Curve]) -> list[str]:
    """Return the SVG attributes of each curve's line."""
    drawn, result = 0, []
    for curve in curves:
        if curve.dashed:
            result.append('stroke="#888" stroke-dasharray="4 4"')
            continue
        dash = DASHES[drawn // len(COLOURS) % len(DASHES)]
        colour = COLOURS[drawn % len(COLOURS)]
        result.append(f'stroke="{colour}" stroke-width="1.6"' + (f' stroke-dasharray="{dash}"' if dash else ""))
        drawn += 1
    return result


def legend(curves: Sequence[Curve]) -> str:
    """Return a list of the curves with a piece of each one's line."""
    entries = [
        f'<li><svg width="26" height="8" aria-hidden="true"><path d="M0 4h26" {style}/></svg> {escape(curve.name)}</li>'
        for curve, style in zip(curves, styles(curves), strict=True)
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def roc_curve(rows: ScoredRows, index: int) -> list[Point]:
    """Return the one-versus-rest ROC curve of a class: (false positive rate, true positive rate), at most 200 points.

    Empty where all rows are of the class, or none is.
    """
    ranking, positive = rows.by_class[index], (rows.labels == index).astype(np.float64)
    above, below = ranking.sums(positive)[::-1], ranking.sums(1 - positive)[::-1]
    if not above.sum() or not below.sum():
        return []
    true: NDArray[np.float64] = np.concatenate([[0], np.cumsum(above) / above.sum()])
    false: NDArray[np.float64] = np.concatenate([[0], np.cumsum(below) / below.sum()])
    chosen = np.unique(np.linspace(0, len(true) - 1, CURVE_POINTS).round().astype(np.int64))
    return [(float(false[at]), float(true[at])) for at in chosen]


def _tick(value: float) -> str:
    return f"{value:.3g}"
