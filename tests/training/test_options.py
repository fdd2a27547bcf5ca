"""The options beside the recipe: each does what it says, or refuses with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, Command, train
from tests.training.loop.test_trainer import history
from training.config import resolve
from training.loop.device import choose_precision
from training.loop.estimate import estimate
from training.models.classifier import ModelSpec
from training.models.registry import build
from training.runs import checkpoint
from training.runs import folder as run_folder
from xtrain.data.datasets import read_npz
from xtrain.data.statistics import channel_statistics

CPU = torch.device("cpu")


def test_dry_run_prints_and_writes_nothing(command: Command, sample: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = command("xtrain", "resnet152", "--data", sample, "-o", run, "--dry-run")
    assert result.code == 0 and not run.exists()
    plan = json.loads(result.out)
    assert plan["config"]["optimizer"] == "adagrad" and plan["config"]["batch_size"] == 64
    assert plan["parameters"] == 58_162_249
    assert plan["model"]["mean"] == list(channel_statistics(read_npz(sample).splits["train"].images)[0])
    assert plan["data"]["rows"] == {"train": 850, "val": 150, "test": 302}


def test_the_memory_estimate_is_what_backward_keeps() -> None:
    """Against the real tensors that a real backward pass of the same batch keeps."""
    spec = ModelSpec("simplecnn", {}, ("a", "b"), (28, 28, 3), 28, None, (0, 0, 0), (1, 1, 1))
    config = resolve("simplecnn", "digits", precision="fp32")
    figures = estimate(config, spec, image_bytes=0)
    network = build("simplecnn", channels=3, classes=2, image_size=28).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(network(torch.zeros(32, 3, 28, 28)), torch.zeros(32, dtype=torch.long))
    assert figures.activations == pytest.approx(sum(kept.values()), rel=0.1)
    loss.backward()
    assert figures.gradients == sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
def test_planned_schedules_end_low(tiny: Path, tmp_path: Path, scheduler: str) -> None:
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, "--epochs", 5, "--scheduler", scheduler)
    rates = [epoch["lr"] for epoch in history(run)]
    assert rates[-1] < 0.25 * max(rates) and max(rates) <= 0.001
    assert (rates[0] == 0.001) == (scheduler == "cosine")


def test_label_smoothing_raises_the_floor_of_the_loss(tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn-v1", "--data", tiny, "--epochs", 12, "--augment", "none", "--lr", 0.003]
    plain = history(train(tmp_path / "plain", *options))
    smooth = history(train(tmp_path / "smooth", *options, "--label-smoothing", 0.3))
    # The entropy of (0.8, 0.1, 0.1) is 0.64: no network gets below it.
    assert plain[-1]["train_loss"] < 0.3 < 0.63 < smooth[-1]["train_loss"]


def test_ema_is_what_is_validated_and_kept(tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn", "--data", tiny, "--epochs", 3]
    run = train(tmp_path / "ema", *options, "--ema", 0.9)
    last = checkpoint.load(run / run_folder.LAST)
    raw = last.training["weights"]
    assert set(raw) == set(last.weights)
    assert any(not torch.equal(raw[key], last.weights[key]) for key in raw)
    # The raw weights are those of a run without the average, which only watches.
    plain = checkpoint.load(train(tmp_path / "plain", *options) / run_folder.LAST)
    assert all(torch.equal(raw[key], plain.weights[key]) for key in raw)


def test_bf16_trains_and_fp32_is_what_is_stored(tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn", "--data", tiny, "--epochs", 8, "--augment", "none"]
    half = train(tmp_path / "bf16", *options, "--precision", "bf16")
    full = train(tmp_path / "fp32", *options, "--precision", "fp32")
    weights = checkpoint.load(half).weights
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())
    assert checkpoint.load(half).digest != checkpoint.load(full).digest
    assert max(epoch["val_accuracy"] for epoch in history(half)) > 0.8
    assert json.loads((half / run_folder.CONFIG).read_text())["precision"] == "bf16"


def test_auto_precision_is_settled_and_recorded(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, "--epochs", 1)
    assert json.loads((run / run_folder.CONFIG).read_text())["precision"] == choose_precision("auto", CPU)


def test_compiled_training_is_the_same_training(tiny: Path, tmp_path: Path) -> None:
    options = ["simplecnn-v1", "--data", tiny, "--epochs", 2, "--precision", "fp32"]
    program = "import warnings; warnings.simplefilter('ignore'); from training.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, options), "--compile", "-o", str(tmp_path / "compiled")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    plain = history(train(tmp_path / "plain", *options))
    for ours, theirs in zip(history(tmp_path / "compiled"), plain, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)


def test_tensorboard_events_read_back(tiny: Path, tmp_path: Path) -> None:
    """In a process of its own: tensorboard's imports warn in ways that are not ours."""
    run = tmp_path / "run"
    program = "import warnings; warnings.simplefilter('ignore'); from training.cli import main; main()"
    options = ["simplecnn-v1", "--data", str(tiny), "--epochs", "3", "--tensorboard", "-o", str(run)]
    subprocess.run([sys.executable, "-c", program, *options], cwd=ROOT, check=True, capture_output=True, timeout=120)
    script = """
import sys, json, warnings
warnings.simplefilter("ignore")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]); events.Reload()
print(json.dumps({"scalars": {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
                  "images": events.Tags()["images"]}))
"""
    command = [sys.executable, "-c", script, str(run / run_folder.TENSORBOARD)]
    read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    accuracy = [epoch["val_accuracy"] for epoch in history(run)]
    assert read["scalars"]["accuracy/validation"] == pytest.approx(accuracy)
    assert read["images"] == ["confusion/validation"]


def test_a_loss_that_is_not_finite_names_epoch_batch_and_rate(command: Command, sample: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn-v1", "--data", sample, "--epochs", 1, "--lr", 0.001)
    before = (run / run_folder.BEST).read_bytes()
    options = ["--epochs", 5, "--optimizer", "sgd", "--lr", 1000, "--precision", "fp32"]
    result = command("xtrain", "simplecnn-v1", "--data", sample, *options, "-o", run, "--overwrite")
    assert result.code == 1
    assert "not finite any more in epoch 1, batch " in result.error and "learning rate 1e+03" in result.error
    batch = int(result.error.partition("batch ")[2].partition(" of 27")[0])
    assert 2 <= batch <= 5, "the first step is finite and the next ones are not"
    # Nothing of the failed run replaced the earlier one.
    assert (run / run_folder.BEST).read_bytes() == before


def test_out_of_memory_says_what_to_try(sample: Path, tmp_path: Path) -> None:
    program = (
        "import resource; import torch; from training.cli import main; "
        "size = int(open('/proc/self/statm').read().split()[0]) * 4096 + 600_000_000; "
        "resource.setrlimit(resource.RLIMIT_AS, (size, size)); main()"
    )
    options = ["resnet18", "--no-pretrained", "--data", str(sample), "--batch-size", "512", "-o", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", program, *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "out of memory with batches of 512 at 224 pixels; try --batch-size 256" in done.stderr


def test_deterministic_is_passed_on_to_torch(tiny: Path, tmp_path: Path) -> None:
    program = (
        "import atexit, os, torch; from training.cli import main; "
        "atexit.register(lambda: print(torch.are_deterministic_algorithms_enabled(), "
        "torch.backends.cudnn.deterministic, os.environ['CUBLAS_WORKSPACE_CONFIG'])); main()"
    )
    options = ["simplecnn", "--data", str(tiny), "--epochs", "1", "--deterministic", "-o", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", program, *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "True True :4096:8", done.stderr


def resnet_weights(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state = build("resnet18", channels=3, classes=1000, image_size=224).state_dict()
    torch.save(state, path)
    return state


def test_weights_from_a_file(command: Command, sample: Path, tmp_path: Path) -> None:
    state = resnet_weights(tmp_path / "mine.pth")
    options = ["resnet18", "--data", sample, "--image-size", 32, "--epochs", 1, "--lr", 1e-12]
    run = train(tmp_path / "run", *options, "--weights", tmp_path / "mine.pth")
    kept = checkpoint.load(run).weights
    assert torch.allclose(kept["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"], atol=1e-6)
    assert kept["fc.weight"].shape == (9, 512)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet18", "--weights", "absent.pth"], 1, "absent.pth: not a readable file of weights"),
        (["resnet18", "--weights", "{mine}", "--no-pretrained"], 2, "contradict"),
        (["simplecnn", "--weights", "{mine}"], 2, "no published weights"),
        (["resnet34", "--weights", "{mine}"], 1, "do not belong to resnet34"),
        (["resnet18", "--weights", "{renamed}"], 1, "its SHA-256 starts with"),
        (["simplecnn", "--ema", "1.5"], 2, "--ema is 1.5"),
        (["simplecnn", "--label-smoothing", "1"], 2, "--label-smoothing is 1.0"),
        (["resnet18", "--patience", "8"], 2, "use at least --patience 10"),
        (["simplecnn", "--plateau-patience", "20"], 2, "use at least --patience 22"),
    ],
)
def test_contradictions(
    command: Command, sample: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    resnet_weights(tmp_path / "mine.pth")
    renamed = tmp_path / "resnet18-00000000.pth"
    renamed.write_bytes((tmp_path / "mine.pth").read_bytes())
    words = [word.format(mine=tmp_path / "mine.pth", renamed=renamed) for word in arguments]
    result = command("xtrain", *words, "--data", sample, "-o", tmp_path / "run")
    assert result.code == code and message in result.error and not (tmp_path / "run").exists()


def test_strong_augmentation_trains(sample: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", sample, "--epochs", 2, "--augment", "strong")
    assert np.isfinite(history(run)[-1]["train_loss"])
    assert json.loads((run / run_folder.CONFIG).read_text())["augment"] == "strong"
