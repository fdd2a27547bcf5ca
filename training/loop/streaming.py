"""Images read from disk while the device works: threads read batches ahead into a ring of buffers.

For a GPU the buffers are pinned, and a stream of its own copies a batch while the one before it is computed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from xtrain.data.datasets import Images
from xtrain.data.mapping import MappedRows

THREADS, SLOTS = 4, 6  # batches that are read at one time, and buffers


class Reader:
    """Serves the images of one split in any order."""

    def __init__(self, source: Images, device: torch.device) -> None:
        self.source, self.device = source, device

    def batches(self, shards: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images (rows, H, W, C) uint8 of each shard on the device.

        On the CPU a batch is one of the buffers: it holds until the next one is asked for.
        """
        if not shards:
            return
        cuda = self.device.type == "cuda"
        shape = (max(len(shard) for shard in shards), *self.source.shape[1:])
        ring = [torch.empty(shape, dtype=torch.uint8, pin_memory=cuda) for _ in range(min(SLOTS, len(shards)))]
        copies = [torch.cuda.Event() for _ in ring] if cuda else []  # type: ignore[no-untyped-call]
        parts = self._read_ahead(shards, ring, copies)
        yield from self._copy_ahead(parts, copies) if cuda else parts

    def _read_ahead(
        self, shards: Sequence[torch.Tensor], ring: Sequence[torch.Tensor], copies: Sequence[torch.cuda.Event]
    ) -> Iterator[torch.Tensor]:
        """Yield filled buffers in order; one may be filled again when the next is asked for and its copy is done."""

        def read(index: int) -> torch.Tensor:
            slot = index % len(ring)
            if copies:
                copies[slot].synchronize()
            part = ring[slot][: len(shards[index])]
            gather(self.source, shards[index].numpy(), part.numpy())
            return part

        with ThreadPoolExecutor(THREADS, "loader") as readers:
            ahead = deque(readers.submit(read, index) for index in range(len(ring)))
            for index in range(len(shards)):
                yield ahead.popleft().result()
                if index + len(ring) < len(shards):
                    ahead.append(readers.submit(read, index + len(ring)))

    def _copy_ahead(self, parts: Iterator[torch.Tensor], copies: Sequence[torch.cuda.Event]) -> Iterator[torch.Tensor]:
        """Yield batches on the GPU; the copy of the next one is begun before."""
        stream, begun = torch.cuda.Stream(self.device), deque[tuple[torch.Tensor, torch.cuda.Event]]()  # type: ignore[no-untyped-call]

        def ready() -> torch.Tensor:
            part, copied = begun.popleft()
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            part.record_stream(current)
            return part

        for index, part in enumerate(parts):
            copied = copies[index % len(copies)]
            with torch.cuda.stream(stream):
                begun.append((part.to(self.device, non_blocking=True), copied))
                copied.record(stream)
            if len(begun) > 1:
                yield ready()
        while begun:
            yield ready()


def gather(source: Images, rows: np.ndarray, out: np.ndarray) -> None:
    """Copy the rows (N,) of an array or of files into `out` (N, H, W, C)."""
    if isinstance(source, MappedRows):
        source.read(rows, out)
    else:
        np.take(np.asarray(source), rows, axis=0, out=out)
