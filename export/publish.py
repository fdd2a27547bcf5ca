"""From the traced graph to three files: verified in onnxruntime with the card inside, then renamed into place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.calibration import calibration_record
from export.model_card import model_card
from export.plan import Plan
from export.verify import GATES, compare, compare_heatmaps
from export.weigh import Weighed
from serving.model import onnxfile, signature
from serving.model.card import HEATMAP, INPUT, KEY, Card
from serving.model.card_parts import (
    Evaluation,
    Heatmap,
    InputTensor,
    Member,
    Parity,
    References,
    TrainingData,
)
from serving.model.predictor import Predictor
from serving.model.signature import PrivateKey
from training.runs.environment import git_commit, package_versions
from xtrain.errors import ExportError
from xtrain.files import open_atomic, replacing
from xtrain.metrics import Metrics, calibration_bins, evaluate

REFERENCE_IMAGES = 8
MAX_REFERENCE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Verified:
    """What was measured of the file in onnxruntime: its card, and its probabilities of the plan's images."""

    card: Card
    metrics: Metrics
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        path: the `.onnx`.
        card: inside it.
        metrics: of the file on the validation rows.
        bytes: its size.
        left_out: positions, from 0, of the runs that greedy selection gave no weight.
    """

    path: Path
    card: Card
    metrics: Metrics
    bytes: int
    left_out: tuple[int, ...] = ()

    @property
    def parity(self) -> Parity:
        """How far onnxruntime is from torch."""
        return self.card.parity


def publish(plan: Plan, weighed: Weighed, model: onnx.ModelProto) -> Exported:
    """Verify the graph and write the model, its digest and its model card, or nothing.

    Raises:
        ExportError: the graph is not valid ONNX, or onnxruntime does not give torch's probabilities.
        OutputError: a file cannot be written; earlier ones are untouched.
    """
    with _staged(plan) as (card_file, digest_file, model_file):
        verified = verify(plan, weighed, model, model_file)
        save(model, verified.card, model_file)
        Predictor(model_file, "cpu").check_references()
        size = model_file.stat().st_size
        digest = onnxfile.sha256(model_file)
        digest_file.write_text(f"{digest}  {plan.output.name}\n", encoding="utf-8")
        bins = calibration_bins(plan.labels, verified.probabilities[: len(plan.labels)])
        card_file.write_text(model_card(verified.card, verified.metrics, bins), encoding="utf-8")
        # Should the machine stop between the renames, a model without a digest is left, never one with a wrong one.
        plan.sidecar.unlink(missing_ok=True)
        plan.signature.unlink(missing_ok=True)
    if plan.key is not None:
        write_signature(plan.output, digest, plan.key)
    return Exported(plan.output, verified.card, verified.metrics, size, weighed.left_out)


def write_signature(model: Path, digest: str, key: PrivateKey) -> None:
    """Write the signature beside a model.

    Raises:
        OutputError: it cannot be written.
    """
    with open_atomic(signature.sidecar(model)) as file:
        file.write(key.sign(digest))


def verify(plan: Plan, weighed: Weighed, model: onnx.ModelProto, path: Path) -> Verified:
    """Write the graph to `path`, run it in onnxruntime, and compare it with torch.

    Raises:
        ExportError: it is not valid ONNX, or differs by more than its precision explains.
    """
    draft = _draft_card(plan, weighed)
    save(model, draft, path)
    predictor, gate = Predictor(path, plan.options.device), GATES[plan.options.precision]
    if weighed.heatmaps:
        probabilities, heatmaps = predictor.predict_and_explain(plan.images)
        compare_heatmaps(weighed.heatmaps, (probabilities, heatmaps), gate)
    else:
        probabilities = predictor.predict(plan.images)
    rows = len(plan.labels)
    parity = compare(weighed.expected, probabilities, plan.labels, gate, predictor.provider)
    metrics = evaluate(plan.labels, probabilities[:rows])
    temperature = weighed.ensemble.temperature
    card = replace(
        draft,
        metrics=(Evaluation(protocol=draft.data.protocol, split="val", metrics=metrics),),
        parity=parity,
        calibration=None
        if temperature is None
        else calibration_record(plan.labels, weighed.uncalibrated[:rows], probabilities[:rows], temperature),
        references=_references(plan, probabilities) if plan.options.references else None,
    )
    return Verified(card, metrics, probabilities)


def save(model: onnx.ModelProto, card: Card, path: Path) -> None:
    """Put the card into the graph, check the graph and write it.

    Raises:
        ExportError: not valid ONNX.
    """
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX ({error}); no file was written") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _staged(plan: Plan) -> Iterator[tuple[Path, Path, Path]]:
    """Yield temporary paths of model card, digest and model, renamed at the end; the model takes its name first."""
    with replacing(plan.model_card) as card, replacing(plan.sidecar) as digest, replacing(plan.output) as model:
        yield card, digest, model


def _references(plan: Plan, probabilities: NDArray[np.float32]) -> References:
    """Return a few validation images, evenly spaced, with what the file answers for them."""
    count = min(REFERENCE_IMAGES, len(plan.labels), max(1, MAX_REFERENCE_BYTES // plan.images[0].nbytes))
    rows = np.linspace(0, len(plan.labels) - 1, count).astype(int)
    data = plan.checkpoints[0].data
    return References.make(plan.images[rows], probabilities[rows], f"{data.name}, validation rows")


def _draft_card(plan: Plan, weighed: Weighed) -> Card:
    """Return what is known before the comparison."""
    first = weighed.checkpoints[0]
    height, width, channels = plan.shape
    members = tuple(
        Member(
            architecture=item.spec.architecture,
            switches=item.spec.switches,
            seed=item.config.seed,
            digest=item.digest,
            epoch=item.epoch,
            weight=weight,
            image_size=item.spec.image_size,
            crop=item.spec.crop,
            mean=item.spec.mean,
            std=item.spec.std,
        )
        for item, weight in zip(weighed.checkpoints, weighed.ensemble.weights, strict=True)
    )
    heatmap = Heatmap(
        name=HEATMAP,
        shape=("N", 1, height, width),
        range=(0.0, 1.0),
        of="the top class",
        method="Grad-CAM in closed form; a class activation map behind global average pooling",
    )
    return Card(
        name=plan.name,
        version=plan.options.model_version,
        members=members,
        data=TrainingData(**first.data.as_json()),
        classes=first.spec.classes,
        input=InputTensor(
            name=INPUT,
            shape=("N", height, width, channels),  # type: ignore[arg-type]
            dtype="uint8",
            colour="RGB" if channels == 3 else "grey",
        ),
        metrics=(),
        weighting={None: "equal", "auto": "greedy"}.get(plan.options.member_weights, "given"),  # type: ignore[arg-type]
        calibration=None,
        tta=plan.options.tta,  # type: ignore[arg-type]
        explain=heatmap if plan.options.explain else None,
        precision=plan.options.precision,  # type: ignore[arg-type]
        parity=Parity(
            images=0,
            max_difference=0.0,
            top_class_agreement=0.0,
            accuracy_torch=0.0,
            accuracy_onnxruntime=0.0,
            provider="",
        ),
        packages=package_versions(),
        git_commit=git_commit(),
        spacing_um=plan.options.spacing_um,
        training_rows=plan.training_rows,
        calibration_note=weighed.calibration_note,
    )
