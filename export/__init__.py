"""Export: run folders in, one verified `.onnx` with its card out."""
