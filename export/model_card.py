"""The model card for people, `M.md` beside `M.onnx`, in the order of Mitchell et al. 2019 ("Model Cards").

Everything in it is from the card and the validation figures; nothing is written by hand, so nothing goes stale.
"""

from collections.abc import Sequence

import numpy as np

from serving.model.card import Card
from xtrain.metrics import Bin, Metrics


def model_card(card: Card, metrics: Metrics, bins: Sequence[Bin]) -> str:
    """Return the Markdown text.

    Args:
        card: of the exported file.
        metrics: of the exported file on the validation rows.
        bins: its calibration curve on the same rows.
    """
    parts = [
        f"# {card.name}, version {card.version}",
        f"**{card.intended_use}**",
        _model(card),
        _data(card),
        _figures(card, metrics),
        _classes(card, metrics),
        _confusion(card, metrics),
        _calibration(card, bins),
        _weaknesses(card, metrics),
        _origin(card),
    ]
    return "\n\n".join(parts) + "\n"


def _model(card: Card) -> str:
    height, width, _ = card.shape
    rows = [
        [
            member.architecture,
            str(member.seed),
            str(member.epoch),
            str(member.crop or member.image_size),
            f"{member.weight:.3f}",
            f"`{member.digest[:12]}`",
        ]
        for member in card.members
    ]
    kind = (
        "One network." if len(rows) == 1 else f"The weighted mean of {len(rows)} networks ({card.weighting} weights)."
    )
    views = " Averaged over the eight flips and quarter turns of each image." if card.tta else ""
    heatmap = (
        f" A second output, `{card.explain.name}`, shows where the evidence for the top class lies."
        if card.explain
        else ""
    )
    return "\n\n".join(
        [
            "## Model",
            f"{kind}{views}{heatmap} Input: uint8 {height}x{width} {card.input.colour} pixels; resizing, "
            f"normalisation and softmax are inside. Precision of the networks: {card.precision}.",
            _table(["architecture", "seed", "epoch", "input side", "weight", "weights' SHA-256"], rows),
        ]
    )


def _data(card: Card) -> str:
    data = card.data
    counts = ", ".join(f"{count:,} {name}" for name, count in data.rows.items())
    return (
        "## Training data\n\n"
        f"{data.name} (md5 `{data.md5}`), licence: {data.licence}, source: {data.source}. "
        f"Protocol: {data.protocol}, split seed {data.split_seed}; rows: {counts}."
    )


def _figures(card: Card, metrics: Metrics) -> str:
    low, high = metrics.accuracy_interval
    where = f"{card.data.protocol} protocol, validation split"
    rows = [
        ["accuracy", f"{metrics.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})", where],
        ["macro F1", f"{metrics.f1:.4f}", where],
        ["AUC, macro, one versus rest", "-" if metrics.auc is None else f"{metrics.auc:.4f}", where],
        ["log loss", f"{metrics.loss:.4f}", where],
        ["expected calibration error", "-" if metrics.ece is None else f"{metrics.ece:.4f}", where],
    ]
    chosen = ["the epoch of each network"]
    chosen += ["the weights of the mean"] if card.weighting == "greedy" else []
    chosen += ["the temperature"] if card.calibration else []
    return (
        "## Figures\n\n"
        f"{metrics.rows:,} validation images through this very file in onnxruntime. They also chose "
        f"{', '.join(chosen)}, so expect a little less elsewhere, and measure it: `xeval M.onnx DATA --split test`. "
        "No test row was used for anything here.\n\n" + _table(["figure", "value", "of"], rows)
    )


def _classes(card: Card, metrics: Metrics) -> str:
    matrix = np.asarray(metrics.confusion)
    rows = []
    for index, name in enumerate(card.classes):
        true, predicted, hits = matrix[index].sum(), matrix[:, index].sum(), matrix[index, index]
        rows.append(
            [
                str(index),
                name,
                f"{hits / predicted:.4f}" if predicted else "-",
                f"{hits / true:.4f}" if true else "-",
                str(true),
            ]
        )
    return "## Classes\n\n" + _table(["class", "name", "precision", "recall", "images"], rows)


def _confusion(card: Card, metrics: Metrics) -> str:
    head = ["true \\ predicted", *map(str, range(len(card.classes)))]
    rows = [[f"{index} {card.classes[index]}", *map(str, counts)] for index, counts in enumerate(metrics.confusion)]
    return "## Confusion matrix\n\nValidation images; rows are true classes.\n\n" + _table(head, rows)


def _calibration(card: Card, bins: Sequence[Bin]) -> str:
    fitted = f"{(card.calibration_note or 'no temperature was fitted').capitalize()}."
    if card.calibration:
        fit = card.calibration
        fitted = (
            f"A temperature of {fit.temperature:.3f} was fitted on the {fit.rows:,} validation rows: "
            f"expected calibration error {fit.ece_before:.4f} before, {fit.ece_after:.4f} after; log loss "
            f"{fit.log_loss_before:.4f} before, {fit.log_loss_after:.4f} after."
        )
        if fit.temperature == 1:
            fitted += " (One means: nothing to fit, as when every row is right already.)"
    rows = [
        [f"{item.low:.2f} to {item.high:.2f}", str(item.rows), f"{item.confidence:.3f}", f"{item.accuracy:.3f}"]
        for item in bins
    ]
    return f"## Calibration\n\n{fitted}\n\n" + _table(["probability of the top class", "images", "mean", "right"], rows)


def _weaknesses(card: Card, metrics: Metrics) -> str:
    matrix = np.asarray(metrics.confusion)
    true = matrix.sum(axis=1)
    errors = matrix - np.diag(np.diag(matrix))
    pairs = sorted(np.argwhere(errors > 0).tolist(), key=lambda pair: -int(errors[pair[0], pair[1]]))[:5]
    lines = [
        f"- {card.classes[row]} is taken for {card.classes[column]}: {errors[row, column]} of {true[row]} images"
        for row, column in pairs
    ] or ["- No validation image is classified wrongly, which says that there are too few or too easy ones."]
    scarce = [card.classes[index] for index in range(len(true)) if true[index] < 30]
    if scarce:
        lines.append(f"- Fewer than 30 validation images, so hardly a figure at all: {', '.join(scarce)}")
    lines += [
        "- Images from another scanner, staining or hospital than those of the training data were not looked at here.",
        "- Every image gets one of the classes, also one that shows none of them.",
    ]
    return "## Known weaknesses\n\n" + "\n".join(lines)


def _origin(card: Card) -> str:
    parity = card.parity
    packages = ", ".join(f"{name} {version}" for name, version in sorted(card.packages.items()))
    return (
        "## Origin\n\n"
        f"Code at {card.git_commit or 'an installed package'}; {packages}. Before the file took its name, onnxruntime "
        f"({parity.provider}) answered like torch on {parity.images} images: largest difference of a "
        f"probability {parity.max_difference:.1e}, equal top classes {parity.top_class_agreement:.2%}, accuracy "
        f"{parity.accuracy_onnxruntime:.4f} and {parity.accuracy_torch:.4f}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a name would end its cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
