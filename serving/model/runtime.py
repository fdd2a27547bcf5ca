"""onnxruntime, imported with its telemetry off.

Its wheels for Linux write an identifier of the device below the home folder and report to Microsoft unless the variable
is set before the library is loaded; a machine that holds patients' images reports to nobody.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: E402

__all__ = ["onnxruntime"]
