"""An evaluation as one self-contained HTML page, for reading and for paper."""
