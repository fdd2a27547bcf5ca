"""What somebody tries who has never seen the project: other files, other numbers, options that do nothing."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.options import ExportOptions
from scoring.options import FigureOptions, PredictionOptions, ReadingOptions, ScoringOptions
from serving.settings import Settings
from tests.conftest import Command, make_npz, train
from tests.training.loop.test_trainer import history
from training.config import RunOptions, TrainConfig, resolve
from training.loop.schedule import EarlyStopping, Schedule
from training.prepare import prepare
from training.runs import checkpoint
from training.runs import folder as run_folder
from training.runs.folder import open_run
from training.runs.progress import LineProgress
from xtrain.data import catalog
from xtrain.data.splits import divide
from xtrain.errors import ConfigError
from xtrain.metrics import evaluate
from xtrain.options import described, kind


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "PNG")
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 28, 28), np.uint8))
    return buffer.getvalue()


def object_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, train_images=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.npy", npy(), "one array without labels (.npy); save images and labels together"),
        ("tile.png", png(), "a single picture; name the folder"),
        ("tile.jpg", b"\xff\xd8\xff\xe0 rest", "a single picture; name the folder"),
        ("table.csv", b"ID,CLASS\n0,1\n", "a text file"),
        ("set.npz", b"hello", "a text file"),
        ("set.npz", b"", "an empty file"),
        ("set.npz", b"PK\x03\x04 cut off", "a zip archive that is cut off"),
        ("set.npz", object_npz(), "arrays of Python objects, which are never loaded"),
        ("set.pkl", b"\x80\x04\x95", "a pickle, which is never loaded"),
        ("set.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("scan.dcm", b"", "DICOM, which is out of scope"),
        ("scan", bytes(128) + b"DICM", "DICOM, which is out of scope"),
        ("scan.nii.gz", b"\x1f\x8b", "3-D volume, which is out of scope"),
        ("set.bin", bytes(range(256)), "a file of an unknown kind"),
    ],
)
def test_other_files_are_named(command: Command, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = command("xtrain", "simplecnn", "--data", tmp_path / name, "-o", tmp_path / "run")
    assert result.code == 1 and message in result.error and "allow_pickle" not in result.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chestmnist", "is multi-label"),
        ("chestmnist_224", "is multi-label"),
        ("nodulemnist3d", "holds 3-D volumes"),
        ("organmnist3d_64", "holds 3-D volumes"),
    ],
)
def test_medmnist_sets_out_of_scope_are_named(command: Command, name: str, message: str) -> None:
    result = command("xtrain", "simplecnn", "--data", name)
    assert result.code == 2 and message in result.error and "out of scope" in result.error


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"train_labels": np.full(36, 2**31, np.int64)}, "label 2147483648 at row 0 is outside 0-999"),
        ({"train_labels": np.append(np.arange(35) % 3, 255).astype(np.uint8)}, "class 3 (3), 4 (4), 5 (5), 6 (6), 7"),
        ({"train_labels": np.arange(36) % 3 + 1}, "class 0 (0) of 4 has no training row"),
        ({"train_labels": np.arange(36) % 3 * 10}, "class 1 (1), 2 (2), 3 (3), 4 (4), 5 (5) and 13 others of 21"),
        ({"train_labels": -np.ones(36, np.int64)}, "label -1 at row 0 is outside"),
        ({"train_labels": np.eye(36, 14, dtype=np.uint8)}, "multi-label data (such as ChestMNIST) is out of scope"),
        ({"train_images": np.zeros((36, 28, 28, 28), np.uint8)}, "3-D volumes are out of scope"),
        ({"train_images": np.zeros((36, 28, 28), np.float32)}, "images are uint8 pixels"),
    ],
)
def test_labels_and_images_that_are_mistakes(
    command: Command, tmp_path: Path, replace: dict[str, np.ndarray], message: str
) -> None:
    data = make_npz(tmp_path / "set.npz", val_images=None, val_labels=None, **replace)
    result = command("xtrain", "simplecnn", "--data", data, "-o", tmp_path / "run")
    assert result.code == 1 and message in result.error and not (tmp_path / "run").exists()


def test_classes_without_rows_may_be_asked_for(command: Command, tmp_path: Path) -> None:
    data = make_npz(tmp_path / "set.npz", train_labels=(np.arange(36) % 3 + 1).astype(np.uint8))
    options = ["simplecnn", "--data", data, "--epochs", 1, "-o", tmp_path / "run", "--classes", 5]
    assert "--no-balance" in command("xtrain", *options).error
    assert command("xtrain", *options, "--no-balance").code == 0
    assert checkpoint.load(tmp_path / "run").spec.classes == ("0", "1", "2", "3", "4")
    assert command("xtrain", "simplecnn", "--data", "digits", "--classes", 3).code == 2


@pytest.mark.parametrize(
    "cls",
    [
        TrainConfig,
        RunOptions,
        ExportOptions,
        ScoringOptions,
        FigureOptions,
        ReadingOptions,
        PredictionOptions,
        Settings,
    ],
)
def test_every_number_has_a_range(cls: type) -> None:
    for name, (_, entry) in described(cls).items():
        if kind(cls, name) in (int, float):
            assert entry.low is not None and entry.high is not None and math.isfinite(entry.high), name


@pytest.mark.parametrize(
    "words",
    [
        ["--batch-size", 10**8],
        ["--image-size", 0],
        ["--lr", "inf"],
        ["--lr", "nan"],
        ["--epochs", 10**9],
        ["--crop", 0],
    ],
)
def test_numbers_out_of_range(command: Command, tiny: Path, words: list[object]) -> None:
    result = command("xtrain", "simplecnn", "--data", tiny, *words)
    assert result.code == 2 and f"{words[0]} is" in result.error


def test_more_than_the_memory_is_refused_before_the_system_kills(command: Command, tiny: Path, tmp_path: Path) -> None:
    options = ["resnet152", "--no-pretrained", "--data", tiny, "--image-size", 4096, "--batch-size", 512]
    result = command("xtrain", *options, "-o", tmp_path / "run")
    assert result.code == 1 and "try --batch-size 256" in result.error and "GB are free" in result.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plateau-patience", 3, "--scheduler", "cosine"], "--plateau-patience does nothing with --scheduler cosine"),
        (["--plateau-factor", 0.5, "--scheduler", "none"], "--plateau-factor does nothing"),
        (["--val-fraction", 0.3], "--val-fraction does nothing here"),
        (["--split-seed", 1], "--split-seed does nothing here"),
        (["--data", "digits", "--stream"], "leave it out"),
        (["--patience", 9, "--plateau-patience", 8], "use at least --patience 10"),
        (["--crop", 40, "--image-size", 32], "--crop 40 is larger than the 32 pixels"),
        (["--crop", 40], "--crop 40 is larger than the 28 pixels"),
    ],
)
def test_options_that_would_do_nothing(command: Command, tiny: Path, words: list[object], message: str) -> None:
    result = command("xtrain", "simplecnn", "--data", tiny, *words)
    assert result.code == 2 and message in result.error


@pytest.mark.parametrize("plateau_patience", [0, 2, 8])
def test_the_shortest_patience_lowers_the_rate_before_it_ends(plateau_patience: int) -> None:
    """No epoch is better than the first: one at least must still be trained with the lower rate."""
    patience = plateau_patience + 2
    config = resolve("simplecnn-v1", "pathmnist", patience=patience, plateau_patience=plateau_patience)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule, stopping, rates = Schedule(config, optimizer, 10), EarlyStopping(patience), []
    same = evaluate(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]))
    while not stopping.exhausted:
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.after_epoch(1.0)
        stopping.update(len(rates), same)
    assert rates[-1] < rates[0] and rates[-2] == rates[0], "and not one epoch more than needed"
    with pytest.raises(ConfigError, match="use at least"):
        resolve("simplecnn-v1", "pathmnist", patience=patience - 1, plateau_patience=plateau_patience)


def test_held_back_test_labels_cannot_be_pooled(command: Command, tmp_path: Path) -> None:
    data = make_npz(tmp_path / "held.npz", test_labels=None)
    result = command("xtrain", "simplecnn", "--data", data, "--protocol", "pooled")
    assert result.code == 2 and "cannot be pooled; use --protocol official" in result.error


@pytest.mark.parametrize("name", ["mnist", "MNIST-small", "digits_28"])
def test_keras_digits_in_a_file_are_not_flipped(tmp_path: Path, name: str) -> None:
    with np.load(make_npz(tmp_path / "tiny.npz")) as arrays:
        keras = {
            f"{a}_{s}": arrays[f"{s}_{b}"] for a, b in (("x", "images"), ("y", "labels")) for s in ("train", "test")
        }
    path = tmp_path / f"{name}.npz"
    np.savez(path, **keras)
    config = resolve("simplecnn", str(path))
    assert config.epochs == 15, "the recipe's for handwritten digits"
    assert prepare(config).config.augment == "none" and catalog.load(str(path)).upright
    assert divide(catalog.load(str(path))).uses_fraction


def test_a_run_knows_its_data_from_every_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    make_npz(tmp_path / "work" / "set.npz")
    monkeypatch.chdir(tmp_path / "work")
    assert command("xtrain", "simplecnn", "--data", "set.npz", "--epochs", 1, "-o", "run").code == 0
    assert open_run("run").config["data"] == str(tmp_path / "work" / "set.npz")
    monkeypatch.chdir(tmp_path)
    assert command("xexport", "work/run", "-o", "m.onnx").code == 0
    (tmp_path / "work" / "set.npz").rename(tmp_path / "moved.npz")
    result = command("xexport", "work/run", "-o", "n.onnx")
    assert result.code == 1 and "name where it is now with --data" in result.error
    assert command("xexport", "work/run", "-o", "n.onnx", "--data", "moved.npz").code == 0
    assert command("xtrain", "simplecnn", "--resume", "work/run", "--epochs", 2, "--data", "moved.npz").code == 0


def test_the_data_folder_is_remembered(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XTRAIN_DATA", str(data_dir))
    options = ["--data", "mnist", "--epochs", 1, "--batch-size", 8192, "-o", tmp_path / "run"]
    assert command("xtrain", "simplecnn-v1", *options).code == 0
    monkeypatch.delenv("XTRAIN_DATA")
    assert command("xexport", tmp_path / "run", "-o", tmp_path / "m.onnx").code == 0


def test_a_configuration_is_taken_back(command: Command, tiny: Path, tmp_path: Path) -> None:
    options = ["--data", tiny, "--epochs", 2, "--optimizer", "sgd", "--no-dropout", "--seed", 5]
    first = train(tmp_path / "a", "simplecnn", *options)
    config = first / run_folder.CONFIG
    assert command("xtrain", "simplecnn", "--config", config, "-o", tmp_path / "b").code == 0
    assert checkpoint.load(tmp_path / "b").digest == checkpoint.load(first).digest
    changed = ["--config", config, "--optimizer", "adam", "--dropout", "-o", tmp_path / "c"]
    assert command("xtrain", "simplecnn", *changed).code == 0
    values = open_run(tmp_path / "c").config
    assert (values["optimizer"], values["lr"], values["seed"], values["switches"]["dropout"]) == (
        "adam",
        0.001,
        5,
        True,
    )
    refused = command("xtrain", "simplecnn", "--config", config, "--recipe", "paper-intended")
    assert refused.code == 2 and "--recipe would change nothing" in refused.error
    assert "another model's" in command("xtrain", "simplecnn-v1", "--config", config).error
    (tmp_path / "x.json").write_text('{"model": "simplecnn", "data": "digits", "optimzer": "sgd"}')
    assert "did you mean optimizer" in command("xtrain", "simplecnn", "--config", tmp_path / "x.json").error
    for text in ("", "[]", '{"model": "simplecnn", "data": 3}', '{"model": "simplecnn", "data": "d", "switches": 1}'):
        (tmp_path / "x.json").write_text(text)
        assert command("xtrain", "simplecnn", "--config", tmp_path / "x.json").code == 2
    (tmp_path / "x.json").write_text('{"model": "simplecnn", "data": "digits", "epochs": "many"}')
    assert "--epochs is 'many'" in command("xtrain", "simplecnn", "--config", tmp_path / "x.json").error


def test_a_dry_run_leaves_nothing_open(command: Command, sample: Path) -> None:
    plan = json.loads(command("xtrain", "simplecnn", "--data", sample, "--dry-run", "--scheduler", "onecycle").out)
    config = plan["config"]
    assert (config["protocol"], config["image_size"], config["augment"]) == ("official", 28, "paper")
    assert config["switches"] == {"batch_norm": True, "dropout": True} and config["precision"] in ("fp32", "bf16")
    assert plan["parameters"] == 391_689 and "parameters" not in plan["memory_bytes"]
    assert 0.01 < plan["seconds_an_epoch"] < 60
    assert plan["minutes_at_most"] == pytest.approx(plan["seconds_an_epoch"] * config["epochs"] / 60, abs=0.01)


def test_quiet_prints_the_result_alone(command: Command, tiny: Path, tmp_path: Path) -> None:
    result = command("xtrain", "simplecnn", "--data", tiny, "--epochs", 1, "-o", tmp_path / "run", "--quiet")
    assert result.code == 0 and result.err == "" and len(result.out.splitlines()) == 2


def test_metrics_hold_training_accuracy_and_rate(sample_run: Path) -> None:
    entries = history(sample_run)
    assert all(0 < entry["train_accuracy"] < 1 and entry["lr"] == 0.001 for entry in entries)
    assert entries[1]["train_accuracy"] > entries[0]["train_accuracy"]


def test_long_epochs_write_a_line_in_between() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, every=0.0)
    progress.start(3, 4, 1)
    progress.step()
    assert stream.getvalue().startswith("epoch 2/3  batch 1/4  ") and stream.getvalue().count("\n") == 1
    quiet = io.StringIO()
    progress = LineProgress(quiet)
    progress.start(3, 4, 1)
    progress.step()
    assert quiet.getvalue() == ""


def test_handwritten_digits_say_that_they_are_not_augmented(command: Command, tmp_path: Path) -> None:
    result = command("xtrain", "simplecnn-v1", "--data", "digits", "--epochs", 1, "-o", tmp_path / "run")
    assert result.err.splitlines()[0].startswith("note: handwritten digits are not augmented")


def test_a_data_set_of_other_classes(command: Command, tmp_path: Path) -> None:
    """The same shape and labels within range: it was scored without a word."""
    train_set = make_npz(tmp_path / "train.npz", class_names=np.array(["a", "b", "c"]))
    other = make_npz(tmp_path / "other.npz", class_names=np.array(["a", "c", "b"]))
    more = make_npz(tmp_path / "more.npz", classes=4, class_names=np.array(["a", "b", "c", "d"]))
    run = train(tmp_path / "run", "simplecnn", "--data", train_set, "--epochs", 1)
    assert command("xexport", run, "-o", tmp_path / "m.onnx").code == 0
    result = command("xeval", tmp_path / "m.onnx", other)
    assert result.code == 1 and "class 1 called 'c', the model 'b'" in result.error
    assert "4 classes (a, …), the model 3 (a, …)" in command("xeval", tmp_path / "m.onnx", more).error


def test_outputs_never_replace_inputs(command: Command, sample_model: Path, sample: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.csv"
    model.write_bytes(sample_model.read_bytes())
    result = command("xscore", model, sample, "-o", model, "--overwrite")
    assert result.code == 1 and "is read by this command" in result.error
    assert model.read_bytes() == sample_model.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(model)
    assert "is read by this command" in command("xscore", model, sample, "-o", link, "--overwrite").error
    for name in ("out.xlsx", "out.json", "out.onnx", "out"):
        result = command("xscore", sample_model, sample, "-o", tmp_path / name)
        assert result.code == 2 and "ends in .csv" in result.error and not (tmp_path / name).exists()
    assert "is a file; choose another -o" in command("xscore", sample_model, sample, "-o", model / "x.csv").error


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_predictions_to_the_standard_output(command: Command, sample_model: Path, sample: Path, name: str) -> None:
    result = command("xscore", sample_model, sample, "-o", name)
    assert result.code == 0 and result.out.startswith("ID,CLASS\n") and len(result.out.splitlines()) == 303
    assert "302 predictions" in result.err


def test_arrays_without_labels_are_scored_as_over_http(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    with np.load(sample) as arrays:
        images = arrays["test_images"]
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images=images)
    np.savez(tmp_path / "c.npz", anything=images)
    expected = command("xscore", sample_model, sample, "-o", "-").out
    for name in ("a.npy", "b.npz", "c.npz"):
        assert command("xscore", sample_model, tmp_path / name, "-o", "-").out == expected
    assert "labels are held back" in command("xeval", sample_model, tmp_path / "a.npy").error
    np.save(tmp_path / "d.npy", images.astype(np.float32))
    assert "images are uint8 pixels" in command("xscore", sample_model, tmp_path / "d.npy", "-o", "-").error


def test_the_api_refuses_the_same(tiny: Path) -> None:
    import xtrain

    with pytest.raises(ConfigError, match="does nothing"):
        xtrain.train("simplecnn", tiny, scheduler="cosine", plateau_patience=3, progress=False)


def test_probabilities_that_are_not_finite_end_a_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite training loss is no promise: JSON has no word for what validation would then give."""
    from training.loop import trainer
    from xtrain.errors import TrainingError

    monkeypatch.setattr(trainer, "predict", lambda *_: np.full((36, 3), np.nan, np.float32))
    with pytest.raises(TrainingError, match="probabilities are not finite in epoch 1; nothing was written"):
        train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1)
    assert not (tmp_path / "run").exists()


def test_running_out_of_memory_advises_what_helps() -> None:
    from training.loop.estimate import batch_advice, memory_advice
    from xtrain.errors import TrainingError

    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory"),
    ):
        with pytest.raises(TrainingError, match="out of memory while validating"), memory_advice("while validating"):
            raise error
    with pytest.raises(RuntimeError, match="another"), memory_advice(""):
        raise RuntimeError("another")
    assert batch_advice(resolve("simplecnn", "digits", batch_size=2)) == "try a smaller --image-size"


@pytest.mark.parametrize("words", [["xtrain", "simplecnn", "--data", ""], ["xeval", "{model}", " "]])
def test_an_empty_name_is_not_the_present_folder(command: Command, sample_model: Path, words: list[str]) -> None:
    result = command(*[word.format(model=sample_model) for word in words])
    assert result.code == 2 and "the data's name is empty" in result.error


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("xtrain res", "resnet152"), ("xtrain comp", "compare"), ("xtrain simplecnn --sched", "--scheduler")],
)
def test_the_shell_completes_models_commands_and_options(typed: str, expected: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_XTRAIN_COMPLETE": "bash_complete"}
    xtrain = Path(sys.executable).parent / "xtrain"
    done = subprocess.run([xtrain], capture_output=True, text=True, env={**os.environ, **words}, timeout=60)
    assert expected in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["", "b", "c"]), "empty, equal or very long names"),
        (np.array(["a", "a", "c"]), "empty, equal or very long names"),
        (np.array("abc"), "a list of texts, one for each class"),
        (np.array([1, 2, 3]), "a list of texts, one for each class"),
    ],
)
def test_class_names_that_no_model_can_carry(tmp_path: Path, names: np.ndarray, message: str, command: Command) -> None:
    data = make_npz(tmp_path / "set.npz", class_names=names)
    assert message in command("xtrain", "simplecnn", "--data", data).error


def test_a_configuration_of_other_data_keeps_what_belongs_to_neither(
    command: Command, tiny: Path, tmp_path: Path
) -> None:
    run = train(tmp_path / "digits", "simplecnn", "--data", "digits", "--epochs", 1, "--optimizer", "sgd")
    words = ["xtrain", "simplecnn", "--config", run / run_folder.CONFIG, "--dry-run"]
    config = json.loads(command(*words, "--data", tiny).out)["config"]
    assert (config["protocol"], config["augment"], config["optimizer"]) == ("official", "paper", "sgd")
    assert json.loads(command(*words).out)["config"]["protocol"] == "pooled"
    assert "the data's name is empty" in command(*words, "--data", "").error


def test_a_dry_run_refuses_a_folder_that_is_taken(command: Command, sample_run: Path) -> None:
    result = command("xtrain", "simplecnn", "--data", "digits", "--dry-run", "-o", sample_run)
    assert result.code == 1 and "holds a run already" in result.error
