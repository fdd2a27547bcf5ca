"""The rows a model was trained on, as its card holds them, so that scoring knows them again.

Flows in: digests of the members' training rows (`xtrain.data.digests`). Flows out, when data is scored: which of its
rows are among them.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from xtrain.data.digests import Digests

EXACT_ROWS = 100_000  # up to 800 KB in the card; beyond, a filter of a quarter of that a row
BLOOM_BITS, BLOOM_HASHES = 16, 11  # bits a row, positions a row: 5 false alarms in 10,000 (Bloom 1970)
MAX_ROWS = 4_000_000  # 8 MB of filter; the card of more rows says that they are not recorded


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The training rows of a model, as the card holds them.

    Attributes:
        count: of distinct images.
        method: `exact` for the sorted digests themselves, `bloom` for a Bloom filter of them.
        content: base64 of little-endian uint64 (count,), or of the filter's bits.
    """

    count: Annotated[int, Field(ge=0, le=MAX_ROWS)]
    method: Literal["exact", "bloom"]
    content: str

    @classmethod
    def make(cls, digests: Sequence[Digests]) -> "TrainingRows | None":
        """Return the union of the members' rows; None where they are too many for a card."""
        rows = np.unique(np.concatenate([np.asarray(part, np.uint64) for part in digests]))
        if len(rows) > MAX_ROWS:
            return None
        if len(rows) <= EXACT_ROWS:
            content, method = rows.astype("<u8").tobytes(), "exact"
        else:
            bits = np.zeros(BLOOM_BITS * len(rows), np.bool_)
            for positions in _positions(rows, len(bits)):
                bits[positions] = True
            content, method = np.packbits(bits).tobytes(), "bloom"
        return cls(count=len(rows), method=method, content=base64.b64encode(content).decode())  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError unless the content is as long as the count says."""
        size = 8 * self.count if self.method == "exact" else BLOOM_BITS * self.count // 8
        empty_filter = self.method == "bloom" and not self.count
        if empty_filter or len(base64.b64decode(self.content, validate=True)) != size:
            raise ValueError(f"the digests of the training rows are not {size} bytes")

    def contains(self, digests: Digests) -> NDArray[np.bool_]:
        """Return for each digest (N,) whether the model was trained on that image."""
        if not self.count:
            return np.zeros(len(digests), np.bool_)
        if self.method == "exact":
            known = self._decoded.view("<u8")
            found: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, digests), len(known) - 1)] == digests
            return found
        inside = np.ones(len(digests), np.bool_)
        for positions in _positions(digests, 8 * len(self._decoded)):
            inside &= (self._decoded[positions >> np.uint64(3)] >> (~positions & np.uint64(7)).astype(np.uint8) & 1) > 0
        return inside

    @cached_property
    def _decoded(self) -> NDArray[np.uint8]:
        """The bytes of the content; scoring looks into them for every few hundred images."""
        return np.frombuffer(base64.b64decode(self.content), np.uint8)


def _positions(digests: Digests, size: int) -> list[NDArray[np.uint64]]:
    """Return the positions of each digest in a filter: two 32-bit halves combined (Kirsch & Mitzenmacher 2006)."""
    low, high = digests & np.uint64(0xFFFFFFFF), (digests >> np.uint64(32)) | np.uint64(1)
    return [(low + np.uint64(step) * high) % np.uint64(size) for step in range(BLOOM_HASHES)]
