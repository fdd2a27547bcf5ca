"""Measuring an exported file on labelled rows: what `xeval` does, and the forms of its answer."""
