"""Labelled images: what a data set is, where the named ones come from, and how their rows are divided."""
