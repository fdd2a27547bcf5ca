"""The Kaggle CSV, the same from the command line and over HTTP."""

import csv
import io

import numpy as np
from numpy.typing import NDArray

HEADER = ["ID", "CLASS"]


def submission(probabilities: NDArray[np.float32]) -> str:
    """Return the CSV text: a header, then a row an image in order, `ID` from 0 and the index of the top class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(enumerate(probabilities.argmax(axis=1).tolist()))
    return buffer.getvalue()
