"""`--wsinfer`: the TorchScript read back as WSInfer runs it, and the configuration by the rules of its schema."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms
from PIL import Image

from export.export import export_runs
from export.options import ExportOptions
from export.targets import wsinfer
from serving.model.card import read_card
from serving.model.predictor import Predictor
from tests.conftest import ROOT
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError, OutputError
from xtrain.files import MANIFEST

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    """With every option that changes the graph, none of which TorchScript may notice."""
    place = tmp_path_factory.mktemp("wsinfer")
    options = ExportOptions(wsinfer=place / "slides", spacing_um=4.0, explain=True, tta="dihedral", precision="fp16")
    export_runs([sample_run], place / "m.onnx", options)
    return place / "slides"


def test_the_configuration_keeps_the_schemas_rules(folder: Path) -> None:
    config, card = json.loads((folder / "config.json").read_text()), read_card(folder.parent / "m.onnx")
    required = {"spec_version", "architecture", "num_classes", "class_names", "patch_size_pixels", "spacing_um_px"}
    assert required | {"transform"} <= set(config) and config["spec_version"] == "1.0"
    assert config["class_names"] == list(card.classes) and config["num_classes"] == len(set(config["class_names"]))
    assert (config["patch_size_pixels"], config["spacing_um_px"], card.spacing_um) == (28, 4.0, 4.0)
    assert [step["name"] for step in config["transform"]] == ["Resize", "ToTensor"]
    assert isinstance(config["transform"][0]["arguments"]["size"], int)  # QuPath takes no list
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    assert names == ["README.md", "config.json", "torchscript_model.pt"]


def test_a_patch_gets_the_probabilities_of_the_exported_file(folder: Path, sample: Path) -> None:
    """As WSInfer: a patch of 112 micrometres at 0.5 a pixel, its transforms by torchvision, softmax over the logits."""
    config = json.loads((folder / "config.json").read_text())
    steps = [getattr(torchvision.transforms, step["name"])(**step.get("arguments", {})) for step in config["transform"]]
    side = round(config["patch_size_pixels"] * config["spacing_um_px"] / 0.5)
    assert side == 224
    images = read_npz(sample).splits["val"].images[:12]
    patches = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images]
    model = torch.jit.load(folder / "torchscript_model.pt", map_location="cpu")
    with torch.no_grad():
        logits = model(torch.stack([torchvision.transforms.Compose(steps)(patch) for patch in patches]))
    expected = Predictor(folder.parent / "m.onnx", "cpu").predict(patches)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=5e-3)  # the exported file has float16 inside
    assert logits.dtype == torch.float32 and len(list(model.parameters())) > 0  # which `.to(device)` moves


def test_the_archive_tells_nothing_of_this_machine(folder: Path) -> None:
    with zipfile.ZipFile(folder / "torchscript_model.pt") as archive:
        assert not any(str(ROOT).encode() in archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        (None, "--spacing-um"),
        (0.0, "at least 0.001"),
        (1e-9, "at least 0.001"),
        (1e5, "at most 10000"),
        (float("nan"), "finite"),
    ],
)
def test_without_a_spacing_nothing_begins(
    sample_run: Path, tmp_path: Path, spacing: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_runs([sample_run], tmp_path / "m.onnx", ExportOptions(wsinfer=tmp_path / "s", spacing_um=spacing))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_refused_before_anything_is_computed(sample_run: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("all of it")
    options = ExportOptions(wsinfer=tmp_path / "s", spacing_um=1, overwrite=True)
    with pytest.raises(OutputError, match="no export wrote"):
        export_runs([sample_run], tmp_path / "m.onnx", options)
    assert not (tmp_path / "m.onnx").exists() and (tmp_path / "s" / "thesis.tex").is_file()


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [((28, 28, 1), ("a", "b"), "in colour"), ((28, 32, 3), ("a", "b"), "square"), ((28, 28, 3), ("a",), "one class")],
)
def test_what_is_no_patch(shape: tuple[int, int, int], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wsinfer.check(shape, classes, 1.0)
