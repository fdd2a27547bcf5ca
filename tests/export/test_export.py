import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.export import export_runs
from export.options import ExportOptions
from serving.model.card import Card
from serving.model.predictor import Predictor
from tests.conftest import Command, train
from training.models.registry import ARCHITECTURES
from training.runs import checkpoint
from xtrain.data import catalog
from xtrain.data.datasets import read_npz


def test_one_self_contained_file(sample_model: Path) -> None:
    """Loaded from a folder of its own by onnxruntime alone."""
    names = sorted(path.name for path in sample_model.parent.iterdir())
    assert names == ["sample.md", "sample.onnx", "sample.onnx.sha256"]
    session = onnxruntime.InferenceSession(sample_model.read_bytes(), providers=["CPUExecutionProvider"])
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [28, 28, 3])
    assert isinstance(images.shape[0], str), "the batch dimension is free"
    assert (probabilities.name, probabilities.type, probabilities.shape[1:]) == (
        "probabilities",
        "tensor(float)",
        [9],
    )
    model = onnx.load(sample_model)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_batch_size_gives_torchs_probabilities(
    sample_model: Path, sample_run: Path, sample: Path, rows: int
) -> None:
    images = read_npz(sample).splits["test"].images[:rows]
    got = Predictor(sample_model, "cpu").predict(images)
    calibration = Predictor(sample_model, "cpu").card.calibration
    temperature = calibration.temperature if calibration else 1.0
    with torch.inference_mode():
        logits = checkpoint.load(sample_run).classifier()(torch.from_numpy(images))
        expected = (logits / temperature).softmax(1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


def test_the_card_tells_everything(sample_model: Path, sample_run: Path, sample: Path) -> None:
    properties = {item.key: item.value for item in onnx.load(sample_model).metadata_props}
    card = Card.from_json(properties["card"])
    best = checkpoint.load(sample_run)
    assert card.name == "sample" and card.classes == best.spec.classes and card.shape == (28, 28, 3)
    assert card.members[0].architecture == "simplecnn" and card.members[0].digest == best.digest
    assert card.data.md5 == read_npz(sample).md5 and card.data.licence == catalog.load(str(sample)).licence
    assert "Not a medical device" in card.intended_use and card.packages["torch"]
    assert (card.weighting, card.tta, card.explain, card.precision) == ("equal", None, None, "fp32")
    assert card.parity.images == 256 and card.parity.accuracy_torch == card.parity.accuracy_onnxruntime
    (figures,) = card.metrics
    assert (figures.protocol, figures.split, figures.metrics.rows) == ("official", "val", 150)
    # onnxruntime's figures, which must equal those of training.
    assert figures.metrics.accuracy == best.metrics["accuracy"]


def test_nothing_of_this_machine_is_in_the_file(sample_model: Path) -> None:
    content = sample_model.read_bytes()
    assert b".py" not in content and b"site-packages" not in content and str(Path.home()).encode() not in content


def test_the_same_run_gives_the_same_bytes(sample_model: Path, sample_run: Path, tmp_path: Path) -> None:
    export_runs([sample_run], tmp_path / "again.onnx", ExportOptions(name="sample"))
    assert (tmp_path / "again.onnx").read_bytes() == sample_model.read_bytes()
    assert (tmp_path / "again.md").read_bytes() == sample_model.with_suffix(".md").read_bytes()


# The slow ones at the smallest side that is not their smallest: the resize must be in the graph.
SIZES = {"alexnet": 72, "alexnet-bn": 72, "xception": 100, "efficientnet-lite0": 40, "mobilenet_v2": 40}
SIZES |= {f"resnet{depth}": 40 for depth in (18, 34, 50, 101, 152)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_exports(name: str, tiny: Path, tmp_path: Path) -> None:
    """Trained a step, exported through its gate (1e-5 on real images), and answering at another batch size."""
    size = ["--image-size", SIZES[name]] if name in SIZES else []
    pretrained = ["--no-pretrained"] if ARCHITECTURES[name].weights else []
    run = train(tmp_path / "run", name, "--data", tiny, "--epochs", 1, "--batch-size", 36, *size, *pretrained)
    done = export_runs([run], tmp_path / "model.onnx")
    assert done.parity.max_difference <= 1e-5 and done.parity.images == 72
    assert Predictor(tmp_path / "model.onnx").predict(np.zeros((5, 28, 28, 1), np.uint8)).shape == (5, 3)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> list[Path]:
    """Members that differ in architecture, size and seed, on the same split."""
    folder = tmp_path_factory.mktemp("members")
    first = train(folder / "a", "simplecnn-v1", "--data", sample, "--epochs", 1, "--seed", 1)
    second = train(
        folder / "b", "resnet18", "--data", sample, "--epochs", 1, "--image-size", 32, "--no-pretrained", "--seed", 2
    )  # fmt: skip
    return [first, second]


def test_an_ensemble_is_the_mean_of_its_members(two_runs: list[Path], sample: Path, tmp_path: Path) -> None:
    done = export_runs(two_runs, tmp_path / "ensemble.onnx", ExportOptions(calibrate=False))
    images = read_npz(sample).splits["test"].images
    for index, run in enumerate(two_runs):
        export_runs([run], tmp_path / f"{index}.onnx", ExportOptions(calibrate=False))
    single = [Predictor(tmp_path / f"{index}.onnx").predict(images) for index in range(2)]
    assert np.abs(single[0] - single[1]).max() > 0.01
    got = Predictor(tmp_path / "ensemble.onnx").predict(images)
    np.testing.assert_allclose(got, (single[0] + single[1]) / 2, atol=1e-6)
    assert [member.weight for member in done.card.members] == [0.5, 0.5]
    assert [member.image_size for member in done.card.members] == [28, 32]


def test_members_of_other_splits_are_refused(
    command: Command, two_runs: list[Path], sample: Path, tmp_path: Path
) -> None:
    other = train(tmp_path / "c", "simplecnn-v1", "--data", sample, "--epochs", 1, "--protocol", "pooled")
    result = command("xexport", two_runs[0], other, "-o", tmp_path / "m.onnx")
    assert result.code == 1 and "differ in protocol: official and pooled" in result.error
    assert not (tmp_path / "m.onnx").exists()


def test_the_same_run_twice_is_refused(command: Command, sample_run: Path, tmp_path: Path) -> None:
    result = command("xexport", sample_run, sample_run, "-o", tmp_path / "m.onnx")
    assert result.code == 1 and "same weights" in result.error


def test_data_that_moved_or_changed(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn-v1", "--data", tiny, "--epochs", 1)
    moved = tiny.rename(tmp_path / "moved.npz")
    model = tmp_path / "m.onnx"
    result = command("xexport", run, "-o", model)
    assert result.code == 1 and "no such file" in result.error
    np.savez(tiny, **{**np.load(moved), "val_labels": np.zeros(36, np.uint8)})
    result = command("xexport", run, "-o", model)
    assert result.code == 1 and "is not that of the training data" in result.error and not model.exists()
    result = command("xexport", run, "-o", model, "--data", moved)
    assert result.code == 0 and "onnxruntime agrees with torch on 72 images" in result.out


def test_an_existing_file_is_kept(command: Command, sample_run: Path, tmp_path: Path) -> None:
    for name in ("m.onnx", "m.md", "m.onnx.sha256"):
        (tmp_path / name).write_text("mine")
        result = command("xexport", sample_run, "-o", tmp_path / "m.onnx")
        assert result.code == 1 and "--overwrite" in result.error and name in result.error
        assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_notes_are_not_replaced(command: Command, sample_run: Path, tmp_path: Path) -> None:
    """Not even with --overwrite: what is there is no model card."""
    (tmp_path / "README.md").write_text("# My project\n")
    result = command("xexport", sample_run, "-o", tmp_path / "README.onnx", "--overwrite")
    assert result.code == 1 and "no model card" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    for _ in range(2):  # its own it replaces
        assert command("xexport", sample_run, "-o", tmp_path / "m.onnx", "--overwrite").code == 0


@pytest.mark.parametrize("name", ["two\nlines", "\udcff"])
def test_a_name_of_one_line(name: str, command: Command, sample_run: Path, tmp_path: Path) -> None:
    result = command("xexport", sample_run, "-o", tmp_path / "m.onnx", "--name", name)
    assert result.code == 2 and "printable" in result.error and not list(tmp_path.iterdir())


def test_another_suffix_is_refused(command: Command, sample_run: Path, tmp_path: Path) -> None:
    result = command("xexport", sample_run, "-o", tmp_path / "m.md")
    assert result.code == 2 and "ends in .onnx" in result.error and not list(tmp_path.iterdir())


def test_a_failing_gate_leaves_no_file(
    command: Command, sample_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is made wrong on purpose: one weight of the exported file differs from torch's."""

    from export.trace import trace as honest

    def dishonest(*arguments: object) -> onnx.ModelProto:
        model = honest(*arguments)  # type: ignore[arg-type]
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] += 10
        weight.raw_data = values.tobytes()
        return model

    monkeypatch.setattr("export.export.trace", dishonest)
    model = tmp_path / "m.onnx"
    model.write_text("an earlier one")
    result = command("xexport", sample_run, "-o", model, "--overwrite")
    assert result.code == 1 and "onnxruntime and torch differ by" in result.error and "on image" in result.error
    assert model.read_text() == "an earlier one" and [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_folder_that_is_no_run(command: Command, tmp_path: Path) -> None:
    result = command("xexport", tmp_path, "-o", tmp_path / "m.onnx")
    assert result.code == 1 and "name a run folder that xtrain wrote" in result.error


def test_no_space_for_the_model(sample_run: Path, tmp_path: Path) -> None:
    import resource
    import subprocess
    import sys

    from tests.conftest import ROOT

    program = [sys.executable, "-c", "from export.cli import main; main()"]
    done = subprocess.run(
        [*program, str(sample_run), "-o", str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),  # a full disk
        timeout=300,
    )
    assert done.returncode == 1 and "cannot write" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_card_without_torch_or_onnx(sample_model: Path) -> None:
    import subprocess
    import sys

    from tests.conftest import ROOT

    program = (
        "import sys; sys.argv = ['xexport', 'show', sys.argv[1]]\n"
        "from export.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(sample_model)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0 and done.stderr.strip() == "[]", done.stderr
    shown = json.loads(done.stdout)
    digest = sample_model.with_name("sample.onnx.sha256").read_text().split()[0]
    assert shown.pop("sha256") == digest
    card = Predictor(sample_model).card
    assert shown == json.loads(json.dumps(card.summary())) and "content" not in shown["training_rows"]
    assert Card.from_json(card.to_json()) == card


def test_the_model_card_tells_what_a_reader_needs(sample_model: Path, sample_run: Path) -> None:
    text = sample_model.with_suffix(".md").read_text()
    card = Predictor(sample_model).card
    figures = card.metrics[0].metrics
    for needed in (
        "do not use it for decisions about patients",
        f"licence: {card.data.licence}",
        "Protocol: official",
        f"{figures.accuracy:.4f} (95 % interval",
        f"{figures.ece:.4f}",
        "No test row was used",
        "## Confusion matrix",
        "| 0.93 to 1.00 |",
        *card.classes,
    ):
        assert needed in text, needed
    confusion = np.array(figures.confusion)
    for index, name in enumerate(card.classes):
        hits, true, predicted = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        precision = f"{hits / predicted:.4f}" if predicted else "-"
        assert f"| {index} | {name} | {precision} | {hits / true:.4f} | {true} |" in text
        assert f"| {index} {name} | " + " | ".join(map(str, confusion[index])) + " |" in text
    off = confusion - np.diag(np.diag(confusion))
    row, column = np.unravel_index(off.argmax(), off.shape)
    assert f"taken for {card.classes[column]}: {off[row, column]} of" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_the_cards_json_is_sorted(sample_model: Path) -> None:
    text = {item.key: item.value for item in onnx.load(sample_model).metadata_props}["card"]
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
