"""Micro-batches of a run by their first block, fetched ahead by one background thread that the loader owns."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from legion.config import BatchConfig
from legion.data.blocks import Blocks
from legion.data.stream import Block

AHEAD = 4  # micro-batches fetched ahead and not yet asked for


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B blocks of L tokens: int64[B, L] each. `tokens` counts the labels that are not NO_LABEL."""

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]
    tokens: int


class Loader:
    """Safe to use from several threads. Close it: it owns a thread."""

    def __init__(self, blocks: Blocks, batch: BatchConfig) -> None:
        self._blocks, self._batch = blocks, batch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="legion-data")
        self._lock = Lock()
        self._ahead: dict[int, Future[MicroBatch]] = {}  # by the number of the first block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def blocks_each(self) -> int:
        """Blocks in a micro-batch."""
        return self._batch.micro_batch_blocks

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """Micro-batch `index` < micro_batches of `step` of a run with one cluster."""
        return self.blocks_from(self.first_block(step, index))

    def first_block(self, step: int, index: int) -> int:
        """Where that micro-batch begins."""
        if not 0 <= index < self._batch.micro_batches:
            raise IndexError(f"micro-batch {index} of {self._batch.micro_batches}")
        return (step * self._batch.micro_batches + index) * self.blocks_each

    def blocks_from(self, first: int) -> MicroBatch:
        """The micro-batch that begins with block `first`; errors of a fetch ahead come out here."""
        with self._lock:
            fetched = self._ahead.pop(first, None)
        # A fetch that has not begun is faster done here than waited for.
        if fetched is None or fetched.cancel():
            return self._load(first)
        return fetched.result()

    def prefetch(self, first: int) -> None:
        """Start to fetch a micro-batch that will likely be asked for; what was never asked for goes, oldest first."""
        with self._lock:
            if first in self._ahead:
                return
            while len(self._ahead) >= AHEAD:
                self._ahead.pop(next(iter(self._ahead))).cancel()
            self._ahead[first] = self._thread.submit(self._load, first)

    def validation_batch_count(self, max_blocks: int) -> int:
        """Batches that `validation_batches` gives; 0 without held-out text."""
        return -(-min(max_blocks, self._blocks.validation_count) // self._batch.micro_batch_blocks)

    def validation_batch(self, number: int, max_blocks: int) -> MicroBatch:
        """One of them, so that members can divide them. The blocks lie evenly spread over all held-out text."""
        count = min(max_blocks, self._blocks.validation_count)
        size = self._batch.micro_batch_blocks
        numbers = range(number * size, min(count, (number + 1) * size))
        return _stack([self._blocks.validation(n * self._blocks.validation_count // count) for n in numbers])

    def validation_batches(self, max_blocks: int) -> Iterator[MicroBatch]:
        """At most `max_blocks` held-out blocks, micro_batch_blocks at a time; the last batch may have fewer."""
        return (self.validation_batch(n, max_blocks) for n in range(self.validation_batch_count(max_blocks)))

    def close(self) -> None:
        """Waits for the fetch under way, drops the others."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self, first: int) -> MicroBatch:
        return _stack([self._blocks.train(first + k) for k in range(self.blocks_each)])


def _stack(blocks: Sequence[Block]) -> MicroBatch:
    return MicroBatch(
        np.stack([block.inputs for block in blocks]),
        np.stack([block.labels for block in blocks]),
        sum(block.tokens for block in blocks),
    )
