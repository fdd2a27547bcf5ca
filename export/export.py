"""From runs to one verified file: plan, weigh, trace, verify, publish; what `xexport` and `xtrain.export` call."""

from collections.abc import Sequence
from pathlib import Path

from export.options import ExportOptions
from export.package import check_targets, slide_model, write_folders
from export.plan import make_plan
from export.publish import Exported, publish
from export.trace import trace
from export.weigh import weigh


def export_runs(runs: Sequence[Path], output: Path, options: ExportOptions | None = None) -> Exported:
    """Export one run, or several as their averaging ensemble.

    Args:
        runs: run folders or checkpoints, each once.
        output: the `.onnx` to write; `.onnx.sha256` and the model card `.md` are written beside it.
        options: how.

    Raises:
        XtrainError: of the fitting kind; `output` and the files beside it are then as they were.
    """
    plan = make_plan(runs, output, options or ExportOptions())
    check_targets(plan)
    weighed = weigh(plan)
    with slide_model(plan, weighed):
        if plan.options.precision == "fp16":
            weighed.ensemble.halve()
        exported = publish(plan, weighed, trace(weighed.ensemble, plan.shape))
    write_folders(exported.path, exported.card, plan.options)
    return exported
