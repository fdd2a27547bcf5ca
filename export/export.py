"""From runs to one verified file: plan, weigh, trace, verify, publish; what `xexport` and `xtrain.export` call."""

from collections.abc import Sequence
from pathlib import Path

from export.options import ExportOptions
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
    weighed = weigh(plan)
    if plan.options.precision == "fp16":
        weighed.ensemble.halve()
    return publish(plan, weighed, trace(weighed.ensemble, plan.shape))
