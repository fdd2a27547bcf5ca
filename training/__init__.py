"""Training: from images to a run folder. Imports `xtrain`, never `serving`; needs the `[train]` extra."""
