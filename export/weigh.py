"""The members' shares of an ensemble, chosen or given, and the probabilities that the exported file must reproduce.

Flows in: a plan. Flows out: the ensemble as it will be traced, with torch's probabilities of the images to compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.calibration import cross_validate, fit_temperature
from export.graph import SMALLEST, Ensemble
from export.inference import heatmaps, member_probabilities
from export.options import ExportOptions
from export.plan import Plan, check_size
from training.runs.checkpoint import Checkpoint
from xtrain.data.datasets import Labels
from xtrain.errors import ConfigError

ROUNDS = 100
HEATMAP_IMAGES = 32  # heatmaps need the whole forward pass again; enough to see a wrong graph


@dataclass(frozen=True)
class Weighed:
    """An ensemble ready to be traced, and what torch says of the plan's images.

    Attributes:
        ensemble: with its weights and temperature.
        checkpoints: of its members.
        left_out: positions, from 0, of the runs that got no weight.
        uncalibrated: probabilities (N, classes) before the temperature.
        expected: probabilities (N, classes) float32 that the file must give.
        heatmaps: probabilities and heatmaps of the first images, None without `explain`.
        calibration_note: why no temperature was kept, where one was asked for.
    """

    ensemble: Ensemble
    checkpoints: list[Checkpoint]
    left_out: tuple[int, ...]
    uncalibrated: NDArray[np.float32]
    expected: NDArray[np.float32]
    heatmaps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    calibration_note: str | None = None


def weigh(plan: Plan) -> Weighed:
    """Settle the members' shares and the temperature on the validation rows, and run torch.

    Raises:
        ConfigError: member weights that are no numbers or not one a run.
        ExportError: options that the members do not take, or more weights than one file holds.
    """
    options, checkpoints = plan.options, list(plan.checkpoints)
    choice = options.member_weights
    weights = parse_weights(choice, len(checkpoints)) if choice not in (None, "auto") else None
    ensemble = make_ensemble(checkpoints, weights, options)
    if choice != "auto":  # which may leave members out
        check_size(ensemble, options.precision)
    parts = member_probabilities(ensemble, plan.images, options.device)
    kept = list(range(len(checkpoints)))
    if choice == "auto":
        shares = select_greedily(parts[:, : len(plan.labels)].numpy(), plan.labels)
        kept = [index for index, share in enumerate(shares) if share > 0]
        checkpoints, parts = [checkpoints[index] for index in kept], parts[kept]
        ensemble = make_ensemble(checkpoints, [shares[index] for index in kept], options)
        check_size(ensemble, options.precision)
    uncalibrated = ensemble.combine(list(parts)).numpy()
    note = _calibrate(ensemble, plan.labels, uncalibrated[: len(plan.labels)]) if options.calibrate else None
    return Weighed(
        ensemble=ensemble,
        checkpoints=checkpoints,
        left_out=tuple(index for index in range(len(plan.checkpoints)) if index not in kept),
        uncalibrated=uncalibrated,
        expected=ensemble.combine(list(parts)).numpy(),
        heatmaps=heatmaps(ensemble, plan.images[:HEATMAP_IMAGES], options.device) if options.explain else None,
        calibration_note=note,
    )


def _calibrate(ensemble: Ensemble, labels: Labels, probabilities: NDArray[np.float32]) -> str | None:
    """Give the ensemble a temperature if it makes held-out rows better calibrated; return why it has none."""
    held_out = cross_validate(labels, probabilities)
    if held_out is None:
        return f"no temperature: {len(labels)} validation rows are too few for one"
    if not held_out.better:
        return f"no temperature: {held_out.describe()}"
    ensemble.temperature = fit_temperature(labels, probabilities)
    return None


def make_ensemble(
    checkpoints: Sequence[Checkpoint], weights: Sequence[float] | None, options: ExportOptions
) -> Ensemble:
    """Return the module to export, in evaluation mode on the CPU."""
    members = [item.classifier() for item in checkpoints]
    return Ensemble(members, weights, tta=options.tta is not None, explain=options.explain).eval()


def parse_weights(text: str | None, members: int) -> list[float]:
    """Return shares of sum 1 from a list such as `0.6,0.4`, or `3,1`.

    Raises:
        ConfigError: not numbers, not one a member, or not all above 0.
    """
    try:
        weights = [float(part) for part in str(text).split(",")]
    except ValueError:
        raise ConfigError(f"--member-weights {text}: neither auto nor numbers such as 0.6,0.4") from None
    if len(weights) != members:
        raise ConfigError(f"--member-weights {text}: {len(weights)} for {members} runs; give one a run, in their order")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"--member-weights {text}: each must be above 0; leave out the run that is to have none")
    shares = [weight / max(weights) for weight in weights]  # so that no sum overflows
    if min(shares) < 1e-6:
        raise ConfigError(f"--member-weights {text}: too far apart; leave out the run that has next to none")
    return [share / sum(shares) for share in shares]


def select_greedily(parts: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
    """Return shares by ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.1).

    Round by round the member is added whose addition makes the log loss of the mean smallest; a member may be added
    again, and how often it was is its share. The best round counts, so that a member can be left out.

    Args:
        parts: members' probabilities (members, N, classes).
        labels: (N,) of the same rows.
    """
    right = parts[:, np.arange(len(labels)), labels].astype(np.float64)
    total, counts = np.zeros(len(labels)), np.zeros(len(parts), np.int64)
    best_loss, best_counts = np.inf, counts
    for size in range(1, ROUNDS + 1):
        losses = [-np.log(np.maximum((total + part) / size, SMALLEST)).mean() for part in right]
        chosen = int(np.argmin(losses))
        total = total + right[chosen]
        counts = counts + (np.arange(len(parts)) == chosen)
        if losses[chosen] < best_loss:
            best_loss, best_counts = losses[chosen], counts
    return [float(count / best_counts.sum()) for count in best_counts]
