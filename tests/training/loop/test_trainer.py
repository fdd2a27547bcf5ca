import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import train
from training.config import MONITORS
from training.loop.schedule import EarlyStopping
from training.optimizers import OPTIMIZERS, SCHEDULERS
from training.runs import checkpoint
from training.runs import folder as run_folder
from xtrain.errors import TrainingError
from xtrain.metrics import Metrics, evaluate


def figures(**values: float) -> Metrics:
    """Metrics of some validation rows with these figures."""
    return replace(evaluate(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]])), **values)


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / run_folder.METRICS).read_text().splitlines()]


def test_the_run_folder_is_complete(sample_run: Path) -> None:
    assert {path.name for path in sample_run.iterdir()} == set(run_folder.FILES)
    for name in (run_folder.CURVES, run_folder.CONFUSION, run_folder.CLASSES):
        assert (sample_run / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_summary_is_of_the_best_epoch(sample_run: Path) -> None:
    summary = json.loads((sample_run / run_folder.SUMMARY).read_text())
    epochs = history(sample_run)
    best = checkpoint.load(sample_run)
    figures = summary["metrics"]
    assert figures["accuracy"] == max(epoch["val_accuracy"] for epoch in epochs)
    assert figures["epoch"] == best.epoch and figures["accuracy"] == best.metrics["accuracy"]
    assert (figures["protocol"], figures["split"], figures["rows"]) == ("official", "val", 150)
    assert summary["digest"] == best.digest
    assert summary["seconds"] > summary["train_seconds"] > 0
    # Its own figures again, from the weights on disk.
    from training.loop.distributed import Process
    from training.loop.loader import Loader
    from training.loop.prediction import predict
    from xtrain.data import catalog
    from xtrain.metrics import evaluate

    dataset = catalog.load(best.config.data)
    val = dataset.splits["val"]
    assert val.labels is not None
    again = evaluate(val.labels, predict(best.classifier(), Loader(val, Process(torch.device("cpu")))))
    assert again.accuracy == figures["accuracy"] and again.loss == pytest.approx(figures["loss"], rel=1e-5)


def test_the_class_distribution_is_told(sample_run: Path) -> None:
    distribution = json.loads((sample_run / run_folder.SUMMARY).read_text())["class_distribution"]
    assert sum(distribution["rows"]) == 850 and len(set(distribution["rows"])) > 1
    assert distribution["drawn"] == pytest.approx([850 / 9] * 9)


def test_statistics_come_from_training_rows_alone(sample_run: Path, sample: Path) -> None:
    from xtrain.data.datasets import read_npz
    from xtrain.data.statistics import channel_statistics

    mean, std = channel_statistics(read_npz(sample).splits["train"].images)
    spec = checkpoint.load(sample_run).spec
    assert spec.mean == mean and spec.std == std


def test_training_learns(tiny: Path, tmp_path: Path) -> None:
    """Three digits are separable in a few epochs; labels that lost their images would stay at a third."""
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 12, "--augment", "none")
    assert max(epoch["val_accuracy"] for epoch in history(run)) > 0.9


def test_the_same_seed_gives_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    digests = [
        checkpoint.load(train(tmp_path / str(index), "simplecnn", "--data", tiny, "--epochs", 2, "--seed", seed)).digest
        for index, seed in enumerate((5, 5, 6))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_early_stopping_keeps_the_best(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 60, "--patience", 3, "--plateau-patience", 1)
    epochs = history(run)
    summary = json.loads((run / run_folder.SUMMARY).read_text())
    assert summary["stopped_early"] and len(epochs) < 60
    first_best = max(range(len(epochs)), key=lambda index: epochs[index]["val_accuracy"])
    assert len(epochs) == first_best + 1 + 3
    assert checkpoint.load(run).metrics["accuracy"] == epochs[first_best]["val_accuracy"]


def test_patience_counts_accuracy_and_ties_go_to_the_lower_loss() -> None:
    stopping = EarlyStopping(patience=2)
    assert stopping.update(1, figures(accuracy=0.5, loss=1.0))
    assert stopping.update(2, figures(accuracy=0.5, loss=0.9)) and not stopping.exhausted
    assert not stopping.update(3, figures(accuracy=0.5, loss=0.95))
    assert stopping.exhausted and stopping.best_epoch == 2


@pytest.mark.parametrize("monitor", MONITORS)
def test_each_figure_can_be_monitored(monitor: str) -> None:
    """The best epoch is the one with the best of it, whatever the others say."""
    worse = {"accuracy": 0.9, "f1": 0.9, "auc": 0.9, "loss": 0.5}
    better = {**dict.fromkeys(worse, 0.1), "loss": 2.0, monitor: 0.4 if monitor == "loss" else 0.95}
    stopping = EarlyStopping(patience=3, monitor=monitor)
    assert stopping.update(1, figures(**worse)) and stopping.update(2, figures(**better))
    assert not stopping.update(3, figures(**worse)) and stopping.best_epoch == 2


def test_a_figure_that_is_not_defined() -> None:
    with pytest.raises(TrainingError, match="--monitor auc: the validation rows hold one class only"):
        EarlyStopping(patience=3, monitor="auc").update(1, replace(figures(), auc=None))


def test_the_learning_rate_drops_on_a_plateau(tiny: Path, tmp_path: Path) -> None:
    options = ["--epochs", 6, "--lr", 1e-6, "--patience", 6, "--plateau-patience", 3, "--optimizer", "sgd"]
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, *options)
    epochs = history(run)
    # At this rate nothing is learned and the loss only rises: epochs 2 to 5 are four bad ones, above a patience of 3.
    assert all(after["val_loss"] > epochs[0]["val_loss"] for after in epochs[1:5])
    assert [epoch["lr"] for epoch in epochs] == pytest.approx([1e-6] * 5 + [0.25e-6])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains(tiny: Path, tmp_path: Path, optimizer: str) -> None:
    options = ["--epochs", 4, "--batch-size", 6, "--lr", 0.001, "--augment", "none", "--optimizer", optimizer]
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, *options)
    losses = [epoch["train_loss"] for epoch in history(run)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_with_every_scheduler(optimizer: str, scheduler: str, tiny: Path, tmp_path: Path) -> None:
    """Each combination trains and resumes; a scheduler gives no optimizer a momentum that it had not."""
    options = ["--optimizer", optimizer, "--scheduler", scheduler, "--epochs", 2, "--augment", "none"]
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, *options)
    assert all(np.isfinite(epoch["train_loss"]) for epoch in history(run))
    groups = checkpoint.load(run / run_folder.LAST).training["optimizer"]["param_groups"]
    if optimizer == "rmsprop":
        assert groups[0]["momentum"] == 0


def digest(run: Path) -> str:
    return checkpoint.load(run / run_folder.LAST).digest


def test_accumulated_batches_are_one_large_batch(sample: Path, tmp_path: Path) -> None:
    """Four batches of 8 added up give the update of 32, but for the order of float sums.

    simplecnn-v1 has no BatchNorm, whose statistics are a batch's own. Both draw the same rows, 27 updates.
    """
    options = [
        "simplecnn-v1",
        "--data",
        sample,
        "--epochs",
        1,
        "--optimizer",
        "sgd",
        "--lr",
        0.001,
        "--precision",
        "fp32",
    ]
    whole = checkpoint.load(train(tmp_path / "whole", *options, "--batch-size", 32))
    parts = checkpoint.load(train(tmp_path / "parts", *options, "--batch-size", 8, "--accumulate", 4))
    assert [history(tmp_path / name)[0]["updates"] for name in ("whole", "parts")] == [27, 27]
    for key, value in whole.weights.items():
        assert torch.allclose(value, parts.weights[key], atol=1e-5), key


def test_clipping_bounds_an_update(tiny: Path, tmp_path: Path) -> None:
    """With plain SGD, no update is longer than the rate times the norm."""
    options = [
        "simplecnn-v1",
        "--data",
        tiny,
        "--epochs",
        1,
        "--optimizer",
        "sgd",
        "--momentum",
        0,
        "--augment",
        "none",
    ]
    options += ["--max-steps", 1, "--lr", 1]
    runs = [train(tmp_path / str(norm), *options, "--clip-grad", norm) for norm in (0.01, 0.02)]
    a, b = (checkpoint.load(run).weights for run in runs)
    difference = torch.cat([(a[name] - b[name]).flatten() for name in a]).norm()
    assert float(difference) == pytest.approx(0.01, rel=1e-3)


def test_a_number_of_updates_ends_training(tiny: Path, tmp_path: Path) -> None:
    """In the middle of an epoch; resumed with more, it goes on to the same bits as in one go of whole epochs."""
    options = ["simplecnn", "--data", tiny, "--batch-size", 12, "--epochs", 50]
    run = train(tmp_path / "run", *options, "--max-steps", 7)
    assert [entry["updates"] for entry in history(run)] == [3, 3, 1]
    summary = json.loads((run / run_folder.SUMMARY).read_text())
    assert summary["epochs"] == 3 and not summary["stopped_early"]
    whole = train(tmp_path / "whole", *options, "--max-steps", 6)
    parts = train(tmp_path / "parts", *options, "--max-steps", 3)
    train_on = ["simplecnn", "--resume", str(parts), "--max-steps", "6"]
    from training.cli import train as xtrain

    xtrain.main(train_on, standalone_mode=False)
    assert digest(whole) == digest(parts)


def test_a_time_limit_ends_training_between_epochs(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 100_000, "--time-limit", 0.02)
    epochs = history(run)
    assert 1 <= len(epochs) < 1000 and sum(entry["seconds"] for entry in epochs[:-1]) < 1.2
    assert (run / run_folder.SUMMARY).is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_resumes(tiny: Path, tmp_path: Path, precision: str) -> None:
    """fp16 with its gradient scaler, whose state is part of a checkpoint."""
    options = ["simplecnn-v1", "--data", tiny, "--augment", "none", "--precision", precision, "--optimizer", "sgd"]
    whole = train(tmp_path / "whole", *options, "--epochs", 4)
    parts = train(tmp_path / "parts", *options, "--epochs", 2)
    from training.cli import train as xtrain

    xtrain.main(["simplecnn-v1", "--resume", str(parts), "--epochs", "4"], standalone_mode=False)
    assert digest(whole) == digest(parts)
    losses = [entry["train_loss"] for entry in history(whole)]
    assert losses[-1] < losses[0] and checkpoint.load(whole / run_folder.LAST).training["scaler"].keys() == (
        {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
        if precision == "fp16"
        else set()
    )


def test_the_batch_size_is_found(tiny: Path, tmp_path: Path) -> None:
    """A power of two up to the rows there are; the file says which."""
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1, "--batch-size", "auto")
    assert checkpoint.load(run).config.batch_size == 32


def test_a_run_of_the_format_before_goes_on(sample_run: Path, tiny: Path, tmp_path: Path) -> None:
    """Its settings have none of those that came later, its state the names of then."""
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, "--epochs", 1, "--patience", 20)
    for name in (run_folder.LAST, run_folder.BEST):
        content = torch.load(run / name, weights_only=True)
        content["format"] = 3
        later = (
            "weight_decay",
            "momentum",
            "nesterov",
            "warmup_epochs",
            "clip_grad",
            "accumulate",
            "monitor",
            "max_steps",
        )
        later += ("mix", "mix_alpha", "class_weights", "loss", "init_from", "freeze", "sync_bn")
        for setting in later:
            del content["config"][setting]
        state = content["training"]
        if state:
            state["stopping"]["best_accuracy"] = state["stopping"].pop("best")
            del state["stopping"]["monitor"], state["scaler"]
            state["schedule"] = state["schedule"]["plateau"]
        torch.save(content, run / name)
    from training.cli import train as xtrain

    xtrain.main(["simplecnn-v1", "--resume", str(run), "--epochs", "3"], standalone_mode=False)
    assert len(history(run)) == 3 and checkpoint.load(run).config.monitor == "accuracy"
