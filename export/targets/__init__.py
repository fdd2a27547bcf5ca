"""An exported file in the folders of other programs: Triton, WSInfer, a browser."""
