"""Export: runs in, one verified `.onnx` with its card out."""
