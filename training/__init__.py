"""Training: data, splits, the ten architectures, the loop, and the run folder it leaves.

The modules that need no torch (`errors`, `atomic`, `console`, `datasets`, `splits`, `metrics`) are also what
`serving` reads labelled data and reports figures with; the rest needs the `[train]` extra.
"""

__version__ = "0.1.0"
