"""The Kaggle CSV, from the command line and over HTTP the same."""

import csv
import io

import numpy as np
from numpy.typing import NDArray

HEADER = ["ID", "CLASS"]


def submission(probabilities: NDArray[np.float32]) -> str:
    """The whole text: a header, then a row an image in order, `ID` from 0 and the top class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(enumerate(probabilities.argmax(axis=1).tolist()))
    return buffer.getvalue()
