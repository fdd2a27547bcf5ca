"""Scoring: predictions and figures of one `.onnx` over a data set. Imports `serving.model` and `xtrain`, no torch."""
