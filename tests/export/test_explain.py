"""Grad-CAM in closed form beside Grad-CAM by autograd, and the heatmap's way through views, crops and onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export.explain import Explained
from export.export import export_runs
from export.graph import Ensemble, dihedral, undo_dihedral
from export.options import ExportOptions
from serving.model.predictor import Predictor
from tests.conftest import Command
from training.models.classifier import Classifier, ModelSpec
from training.models.registry import ARCHITECTURES, build
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError, ExportError

SIZES = {"alexnet": 95, "alexnet-bn": 95, "xception": 128, "efficientnet-lite0": 64, "mobilenet_v2": 64}
SIZES |= {f"resnet{depth}": 64 for depth in (18, 34, 50, 101, 152)}


def settled(name: str, size: int, **options: bool) -> nn.Module:
    """A network with BatchNorm statistics of its own inputs, so that its maps are neither flat nor huge."""
    torch.manual_seed(3)
    network = build(name, channels=3, classes=5, image_size=size, **options)
    with torch.no_grad():
        for _ in range(5):
            network.train()(torch.rand(8, 3, size, size))
    return network.eval()


def grad_cam(
    explained: Explained, pixels: torch.Tensor, logits: torch.Tensor, maps: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """Selvaraju et al. 2017, eq. 1 and 2, by autograd."""
    chosen = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, maps)
    return F.relu((gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_closed_form_is_autograds(name: str) -> None:
    size = SIZES.get(name, 28)
    network = settled(name, size)
    explained = Explained(network)
    pixels, classes = torch.rand(6, 3, size, size), torch.tensor([0, 1, 2, 3, 4, 0])
    logits, maps, inputs = explained(pixels)
    torch.testing.assert_close(logits, network(pixels))
    expected = grad_cam(explained, pixels, logits, maps, classes)
    got = explained.heatmap(maps, inputs, classes)
    assert got.shape == expected.shape == (6, *maps.shape[2:]) and min(maps.shape[2:]) >= 2
    for ours, theirs in zip(got.detach(), expected.detach(), strict=True):
        if theirs.max() > 0:
            correlation = np.corrcoef(ours.numpy().ravel(), theirs.numpy().ravel())[0, 1]
            assert correlation > 0.9999
        else:
            assert ours.max() < 1e-5
    assert (got.amax(dim=(1, 2)) > 0).sum() >= 2, "flat maps would prove nothing"


@pytest.mark.parametrize("options", [{"batch_norm": False}, {"dropout": False}])
def test_simplecnns_switches(options: dict[str, bool]) -> None:
    explained = Explained(settled("simplecnn", 28, **options))
    pixels, classes = torch.rand(3, 3, 28, 28), torch.tensor([0, 1, 2])
    logits, maps, inputs = explained(pixels)
    expected = grad_cam(explained, pixels, logits, maps, classes)
    got = explained.heatmap(maps, inputs, classes)
    torch.testing.assert_close(got / got.max(), expected / expected.max(), atol=1e-4, rtol=1e-3)


def test_behind_global_pooling_it_is_the_class_activation_map() -> None:
    """On a ResNet with hooks, which share nothing with the taken-apart network."""
    network = settled("resnet18", 64)
    kept: list[torch.Tensor] = []
    network.get_submodule("layer4").register_forward_hook(lambda _module, _given, output: kept.append(output))
    pixels, classes = torch.rand(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    logits = network(pixels)
    weights = network.get_submodule("fc").weight[classes]  # type: ignore[index]
    cam = (weights[:, :, None, None] * kept[0]).sum(dim=1)
    bias = network.get_submodule("fc").bias[classes]  # type: ignore[index]
    torch.testing.assert_close(cam.mean(dim=(1, 2)) + bias, logits[range(4), classes])  # exact: it adds up to the logit
    (gradient,) = torch.autograd.grad(logits[range(4), classes].sum(), kept[0])
    by_gradient = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1))
    explained = Explained(network)
    _, maps, inputs = explained(pixels)
    ours = explained.heatmap(maps, inputs, classes)
    torch.testing.assert_close(ours, F.relu(cam))
    for one, other in zip(ours.detach(), by_gradient.detach(), strict=True):
        assert other.max() == 0 or np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1] >= 0.99


def test_a_network_that_is_not_known_is_refused_by_name() -> None:
    class Transformer(nn.Module):
        pass

    with pytest.raises(ExportError, match="Transformer"):
        Explained(Transformer())
    network = build("simplecnn", channels=3, classes=5, image_size=28)
    network.get_submodule("classifier")[2] = nn.GELU()  # type: ignore[index, operator]
    with pytest.raises(ExportError, match="GELU"):
        Explained(network)


def test_views_are_all_eight_and_are_undone() -> None:
    images = torch.arange(2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    views = dihedral(images).reshape(8, 2, 5, 5, 3)
    assert len({view.numpy().tobytes() for view in views}) == 8
    assert (undo_dihedral(dihedral(images).permute(0, 3, 1, 2).float()) == images.permute(0, 3, 1, 2)).all()


@pytest.fixture(scope="module")
def explaining(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explaining") / "m.onnx"
    export_runs([sample_run], path, ExportOptions(explain=True, tta="dihedral"))
    return path


def test_heatmaps_in_onnxruntime(explaining: Path, sample: Path) -> None:
    predictor = Predictor(explaining, "cpu")
    images = read_npz(sample).splits["test"].images[:40]
    probabilities, heatmaps = predictor.predict_and_explain(images)
    assert (probabilities == predictor.predict(images)).all()
    assert heatmaps.shape == (40, 28, 28) and heatmaps.dtype == np.float32
    assert heatmaps.min() == 0 and heatmaps.max() <= 1
    shown = heatmaps.max(axis=(1, 2))
    assert (np.isclose(shown, 1) | (shown < 0.1)).all() and (shown > 0.99).mean() > 0.8
    # Averaged over the views, a turned image has the turned heatmap and the same probabilities.
    turned, turned_maps = predictor.predict_and_explain(np.ascontiguousarray(np.rot90(images, axes=(1, 2))))
    np.testing.assert_allclose(turned, probabilities, atol=1e-5)
    np.testing.assert_allclose(turned_maps, np.rot90(heatmaps, axes=(1, 2)), atol=1e-3)


def test_a_member_that_crops_shows_nothing_of_the_edge(sample: Path) -> None:
    spec = ModelSpec("alexnet", {}, tuple("abcde"), (28, 28, 3), 96, 64, (0.5,) * 3, (0.2,) * 3)
    classifier = Classifier(spec)
    classifier.network = settled("alexnet", 64)
    ensemble = Ensemble([classifier], explain=True).eval()
    images = torch.from_numpy(read_npz(sample).splits["test"].images[:30])
    with torch.no_grad():
        _, heatmaps = ensemble(images)
    edge = int(28 * 16 / 96 - 1)  # the crop leaves out 16 of 96 pixels on each side; one more for the interpolation
    assert (heatmaps[:, 0, :edge] == 0).all() and (heatmaps[:, 0, :, -edge:] == 0).all()
    assert heatmaps[:, 0, edge:-edge, edge:-edge].max() > 0.5


@pytest.mark.parametrize("tta", [False, True])
def test_members_heatmaps_are_averaged_by_weight(tta: bool, sample: Path) -> None:
    members = []
    for name in ("simplecnn", "simplecnn-v1"):
        member = Classifier(ModelSpec(name, {}, tuple("abcde"), (28, 28, 3), 28, None, (0.5,) * 3, (0.2,) * 3))
        member.network = settled(name, 28)
        last = [layer for layer in member.network.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            last.bias[2] = 20  # so that all agree in the top class; a heatmap knows nothing of the bias
        members.append(member)
    images = torch.from_numpy(read_npz(sample).splits["test"].images[:200])
    with torch.no_grad():
        both, together = Ensemble(members, [0.75, 0.25], explain=True, tta=tta).eval()(images)
        alone = [Ensemble([member], explain=True, tta=tta).eval()(images) for member in members]
        _, swapped = Ensemble(members, [0.25, 0.75], explain=True, tta=tta).eval()(images)
    assert all((probabilities.argmax(1) == 2).all() for probabilities in (both, alone[0][0], alone[1][0]))
    if not tta:  # a single file's map is scaled to 1, the views' mean within an ensemble is not
        expected = 0.75 * alone[0][1] + 0.25 * alone[1][1]
        expected = expected / expected.amax(dim=(2, 3), keepdim=True).clamp_min(1e-3)
        torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-3)
    assert (swapped - together).abs().max() > 0.05, "the weights matter"


def test_a_wrong_heatmap_leaves_no_file(
    command: Command, sample_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probabilities are right, the second output is turned over."""
    from export.trace import trace as honest

    def dishonest(ensemble: Ensemble, shape: tuple[int, int, int]) -> onnx.ModelProto:
        model = honest(ensemble, shape)
        (node,) = [node for node in model.graph.node if "heatmap" in node.output]
        node.output[0] = "upright"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "one"))
        model.graph.node.append(onnx.helper.make_node("Sub", ["one", "upright"], ["heatmap"]))
        return model

    monkeypatch.setattr("export.export.trace", dishonest)
    result = command("xexport", sample_run, "-o", tmp_path / "m.onnx", "--explain")
    assert result.code == 1 and "heatmaps of onnxruntime and torch differ" in result.error
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_heatmap_says_so(sample_model: Path) -> None:
    with pytest.raises(ConfigError, match="export it with --explain"):
        Predictor(sample_model).explain(np.zeros((1, 28, 28, 3), np.uint8))


def test_explain_is_an_option_of_the_command(command: Command, sample_run: Path, tmp_path: Path) -> None:
    result = command("xexport", sample_run, "-o", tmp_path / "m.onnx", "--explain", "--no-calibrate")
    assert result.code == 0 and "temperature" not in result.out
    assert "second output, `heatmap`" in (tmp_path / "m.md").read_text()
