"""Every option with every model, optimizer, scheduler and data layout that it can meet: two training steps each.

What cannot work together must be refused in one line, and everything else must train and validate to finite figures.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import make_npz
from tests.pairwise import pairwise
from training.config import resolve
from training.loop.distributed import Process
from training.loop.prediction import predict
from training.loop.trainer import Trainer
from training.models.classifier import Classifier
from training.models.registry import ARCHITECTURES
from training.optimizers import OPTIMIZERS, SCHEDULERS
from training.policies import POLICIES
from training.prepare import prepare
from xtrain.errors import XtrainError
from xtrain.metrics import evaluate

LAYOUTS = ("medmnist grey", "medmnist rgb", "kaggle", "keras", "digits", "pool", "patients", "splits")
POOLS = ("kaggle", "digits", "pool", "patients")
FACTORS: dict[str, list[Any]] = {
    "model": list(ARCHITECTURES),
    "data": list(LAYOUTS),
    "optimizer": list(OPTIMIZERS),
    "scheduler": list(SCHEDULERS),
    "augment": [None, *POLICIES],
    "statistics": ["dataset", "imagenet", "pretrained"],
    "protocol": [None, "official", "pooled"],
    "recipe": [0, 1],  # the model's first or second, where it has two
    "stream": [None, True, False],
    "ema": [None, 0.9],
    "label_smoothing": [0.0, 0.1],
    "balance": [True, False],
    "precision": ["fp32", "bf16"],
    "crop": [None, 4],  # pixels less than the image
    "deterministic": [False, True],
    "mix": ["none", "mixup", "cutmix"],
    "loss": ["cross-entropy", "focal"],
    "accumulate": [1, 2],
    "clip_grad": [None, 1.0],
    "weight_decay": [None, 0.1],
    "warmup_epochs": [0, 1],
    "monitor": ["accuracy", "loss", "f1", "auc"],
    "max_steps": [None, 1],
    "classes": [None, 3, 5],
}
CASES = pairwise(FACTORS)


def expected_refusal(case: dict[str, Any]) -> str | None:
    """What the message of a case that must be refused says."""
    if case["scheduler"] == "onecycle" and case["warmup_epochs"]:
        return "--warmup-epochs"
    if case["statistics"] == "pretrained" and ARCHITECTURES[case["model"]].weights is None:
        return "no published weights"
    if case["classes"] == 3 and case["data"] == "digits":
        return "--classes 3"
    if case["classes"] == 5 and case["data"] in ("digits", "pool", "patients", "splits"):
        return "--classes 5"
    if case["stream"] and case["data"] == "digits":
        return "--stream"
    if case["protocol"] == "official" and case["data"] in POOLS:
        return "without official splits"
    if case["classes"] == 5 and case["balance"]:
        return "--no-balance"
    return None


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("layouts")
    grey = make_npz(folder / "grey.npz", rows=8)
    with np.load(grey) as arrays:
        images = {name: arrays[f"{name}_images"] for name in ("train", "val", "test")}
        labels = {name: arrays[f"{name}_labels"] for name in ("train", "val", "test")}
    rgb = {f"{name}_images": np.repeat(images[name][..., None], 3, axis=-1) for name in images}
    np.savez(folder / "rgb.npz", **rgb, **{f"{name}_labels": labels[name] for name in labels})
    kaggle = {f"{name}_images_shuffled": images[name] for name in ("train", "test")}
    np.savez(folder / "kaggle.npz", **kaggle, train_labels_shuffled=labels["train"])
    keras = {
        f"{axis}_{name}": part[name] for axis, part in (("x", images), ("y", labels)) for name in ("train", "test")
    }
    np.savez(folder / "keras.npz", **keras)
    for name, index in itertools.product(images, range(24)):
        picture = Image.fromarray(images[name][index])
        for place in (f"splits/{name}/{labels[name][index]}", f"pool/{labels[name][index]}"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            picture.save(folder / place / f"p{index % 8}-{name}-{index}.png")
    paths = {"medmnist grey": grey, "medmnist rgb": folder / "rgb.npz", "patients": folder / "pool"}
    paths |= {name: folder / name for name in ("pool", "splits")}
    paths |= {name: folder / f"{name}.npz" for name in ("kaggle", "keras")}
    return {"digits": "digits", **{name: str(path) for name, path in paths.items()}}


@pytest.fixture
def determinism() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def side(model: str) -> int:
    return max(ARCHITECTURES[model].min_size, 16)


def test_the_cases_cover_every_pair() -> None:
    for a, b in itertools.combinations(FACTORS, 2):
        assert {(case[a], case[b]) for case in CASES} == set(itertools.product(FACTORS[a], FACTORS[b]))
    assert len(CASES) < 1.5 * len(FACTORS["model"]) * len(FACTORS["data"])


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_options_meet(case: dict[str, Any], layouts: dict[str, str], tmp_path: Path, determinism: None) -> None:
    size = side(case["model"]) + (case["crop"] or 0)
    settings = {name: case[name] for name in case if name not in ("model", "data", "stream", "crop", "deterministic")}
    settings |= {"crop": size - case["crop"] if case["crop"] else None, "image_size": size, "data_dir": str(tmp_path)}
    recipes = ARCHITECTURES[case["model"]].recipes
    settings["recipe"] = recipes[min(case["recipe"], len(recipes) - 1)].name
    settings |= {"pretrained": False, "batch_size": 8, "epochs": 2, "patience": 30}
    settings |= {"group_pattern": r"(p\d)-"} if case["data"] == "patients" else {}
    message = expected_refusal(case)
    try:
        config = resolve(case["model"], layouts[case["data"]], **settings)
        torch.use_deterministic_algorithms(case["deterministic"])
        ready = prepare(config, case["stream"])
        trainer = Trainer(ready.config, Classifier(ready.spec), ready.splits, Process(torch.device("cpu")))
    except XtrainError as error:
        assert message is not None and message in str(error) and "\n" not in str(error), (message, error)
        return
    assert message is None, f"not refused: {message}"
    trainer.step.train_mode()
    losses = [trainer.step(batch)[0] for batch in trainer.train_loader.training_batches(trainer.plan(1), 2)]
    assert len(losses) == 2
    trainer.schedule.after_epoch(1.0)
    metrics = evaluate(trainer.val_labels, predict(trainer.validated, trainer.val_loader))
    assert all(loss.isfinite() for loss in losses) and np.isfinite(metrics.loss) and trainer.step.learning_rate > 0
    assert all(value.isfinite().all() for value in trainer.validated.network.state_dict().values())
