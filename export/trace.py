"""From the module to a self-contained ONNX graph without anything of this machine in it."""

import contextlib
import io
import warnings

import onnx
import torch

from export.graph import Ensemble
from serving.model.card import HEATMAP, INPUT, OUTPUT

OPSET = 20


def trace(ensemble: Ensemble, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Return the graph of the module for images of a native (H, W, C), with a free batch dimension."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    names = [OUTPUT, HEATMAP] if ensemble.explained else [OUTPUT]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
        program = torch.onnx.export(
            ensemble,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on nodes and values: stack traces of this machine, different on the next."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
