"""The run folder: checkpoints, history, report, resuming, and what is shown while a run is under way."""
