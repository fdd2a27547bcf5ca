"""Serving: one `.onnx` over HTTP. Imports `xtrain`, never `training`; never loads torch."""
