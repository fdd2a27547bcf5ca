"""A model over shards: images in, decoded ahead of the model, probabilities out, part after part."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scoring.decoding.pool import DecoderPool, Pixels
from scoring.options import ErrorPolicy
from scoring.readers import Selection
from scoring.sources.source import Shard
from scoring.writers.rows import Rows
from serving.model.predictor import MAX_RUN, Predictor
from xtrain.errors import DataError


class Scorer:
    """Runs one model over shards and counts the images that it was trained on.

    Attributes:
        predictor: the model.
        policy: what becomes of images that cannot be read.
        seen: images so far that the model was trained on.
    """

    def __init__(self, predictor: Predictor, policy: ErrorPolicy, decoders: int | None = None) -> None:
        """Start no process yet.

        Args:
            predictor: the model.
            policy: what becomes of images that cannot be read.
            decoders: processes that decode; None for one a core.
        """
        self.predictor, self.policy, self.seen = predictor, policy, 0
        self._pool = DecoderPool(decoders, predictor.card.shape, predictor.card.training_rows)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__()

    def rows(self, shard: Shard, first: int = 0) -> Iterator[Rows]:
        """Yield the probabilities of a shard's images in order, numbered from `first`.

        Raises:
            DataError: an image cannot be read and the policy is `fail`, or the shard has another number of images.
            ModelFileError: the model cannot run.
        """
        start = first
        for pixels in self._pool.decode(shard.parts()):
            if pixels.errors and self.policy.action == "fail":
                raise DataError(f"{pixels.errors[min(pixels.errors)]}; or leave such images out with --on-error skip")
            yield Rows(start, self._probabilities(pixels), pixels.names, pixels.errors)
            self.seen += pixels.seen
            start += len(pixels.images)
        if shard.rows is not None and start - first != shard.rows:
            raise DataError(f"{shard.name}: held {shard.rows} images and now {start - first}; score it again")

    def _probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        probabilities = self.predictor.predict(pixels.images)
        if pixels.errors:
            probabilities[list(pixels.errors)] = np.nan
        return probabilities


def predict_rows(predictor: Predictor, selection: Selection) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of every image of a selection, read in parts where it is not in memory."""
    images = selection.rows.images
    return np.concatenate(
        [predictor.predict(images[start : start + MAX_RUN]) for start in range(0, len(images), MAX_RUN)]
    )
