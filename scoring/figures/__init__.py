"""Figures of a classifier on labelled rows, with intervals, prediction sets and comparisons; plain numpy."""
