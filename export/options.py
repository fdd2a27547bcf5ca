"""The options of an export; nothing here loads torch."""

from dataclasses import dataclass
from pathlib import Path

from xtrain.options import option


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How runs become a file."""

    name: str | None = option(None, default_text="the file's stem", help="Name of the model.")
    model_version: str = option("1", help="Your version of the model.")
    member_weights: str | None = option(
        None,
        metavar="W,W,…|auto",
        default_text="equal",
        help="Weights of the members in the mean, one a run, or auto: greedy selection on the validation rows "
        "(Caruana et al. 2004).",
    )
    calibrate: bool = option(True, help="Fit a temperature on the validation rows (Guo et al. 2017).")
    tta: str | None = option(
        None, choices=("dihedral",), help="Test-time augmentation: average over the eight flips and quarter turns."
    )
    explain: bool = option(False, switch=True, help="Add an output with the Grad-CAM heatmap of the top class.")
    precision: str = option(
        "fp32", choices=("fp32", "fp16"), help="Precision of the networks inside; pixels and probabilities keep theirs."
    )
    references: bool = option(
        True,
        help="Put eight validation images and their probabilities into the card, so that a server can check itself; "
        "leave them out where the images must not be passed on.",
    )
    data: str | None = option(None, default_text="where it was", help="Where the training data is now.")
    data_dir: Path | None = option(
        None,
        default_text="$XTRAIN_DATA, else ~/.cache/xtrain",
        help="Folder in which data sets named by name are looked up and downloaded to.",
    )
    device: str = option(
        "cpu", choices=("auto", "cpu", "cuda"), help="Where the file is compared with torch, in both runtimes."
    )
    spacing_um: float | None = option(
        None,
        low=0.001,  # a nanometre; less is a slip
        high=10_000,
        default_text="unknown",
        help="Micrometres a pixel of the training images as they are stored, for the card (PathMNIST at 28 pixels: 4).",
    )
    sign: Path | None = option(
        None,
        metavar="KEY",
        default_text="no signature",
        help="PEM file of a private Ed25519 key; its signature of the file is written to M.onnx.sig.",
    )
    triton: Path | None = option(
        None,
        metavar="FOLDER",
        default_text="not at all",
        help="Also write the model into this model repository of Triton.",
    )
    wsinfer: Path | None = option(
        None,
        metavar="FOLDER",
        default_text="not at all",
        help="Also write the runs as a model of WSInfer and QuPath, in TorchScript; needs --spacing-um.",
    )
    web: Path | None = option(
        None,
        metavar="FOLDER",
        default_text="not at all",
        help="Also write a static web page that classifies in the browser, without a server; needs onnxruntime-web.",
    )
    onnxruntime_web: Path | None = option(
        None,
        metavar="FOLDER",
        default_text="node_modules here or above",
        help="Folder of the npm package onnxruntime-web, for --web.",
    )
    overwrite: bool = option(False, switch=True, help="Replace the files of an earlier export.")
