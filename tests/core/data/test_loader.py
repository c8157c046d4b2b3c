"""The loader: micro-batches by number, whoever asks, in whatever order, fetched ahead or not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from legion.config import BatchConfig
from legion.data.loader import AHEAD, Loader, MicroBatch
from legion.data.stream import NO_LABEL, Block
from legion.errors import Unavailable

BATCH = BatchConfig(micro_batch_blocks=3, micro_batches=2)


class Numbered:
    """Blocks that hold their own number; implements Blocks."""

    seq_len = 4
    epoch_blocks = 1000

    def __init__(self, validation_count: int = 10) -> None:
        self.validation_count = validation_count
        self.asked: list[int] = []
        self.allowed = Event()
        self.allowed.set()

    def train(self, number: int) -> Block:
        assert self.allowed.wait(10)
        self.asked.append(number)
        if number == 600:
            raise Unavailable("the hub is away")
        return self._block(number)

    def validation(self, index: int) -> Block:
        assert 0 <= index < self.validation_count
        return self._block(index)

    def _block(self, number: int) -> Block:
        labels = np.full(4, number, np.int64)
        labels[: number % 4] = NO_LABEL
        return Block(np.full(4, number, np.int64), labels)


@pytest.fixture
def blocks() -> Numbered:
    return Numbered()


@pytest.fixture
def loader(blocks: Numbered) -> Iterator[Loader]:
    with Loader(blocks, BATCH) as opened:
        yield opened


def numbers(batch: MicroBatch) -> list[int]:
    return [int(row[0]) for row in batch.inputs]


def test_the_micro_batches_of_a_run_are_all_blocks_in_order(loader: Loader) -> None:
    found = [number for step in range(5) for index in range(2) for number in numbers(loader.micro_batch(step, index))]
    assert found == list(range(30))


def test_shapes_and_counted_tokens(loader: Loader) -> None:
    batch = loader.micro_batch(0, 1)
    assert batch.inputs.shape == batch.labels.shape == (3, 4)
    assert batch.inputs.dtype == batch.labels.dtype == np.int64
    assert batch.tokens == np.count_nonzero(batch.labels != NO_LABEL) == 1 + 4 + 3


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_the_step_is_refused(loader: Loader, index: int) -> None:
    with pytest.raises(IndexError):
        loader.micro_batch(0, index)


def test_what_was_fetched_ahead_is_not_read_again(loader: Loader, blocks: Numbered) -> None:
    loader.prefetch(loader.first_block(4, 1))
    loader.prefetch(loader.first_block(4, 1))
    assert numbers(loader.micro_batch(4, 1)) == [27, 28, 29]
    assert sorted(blocks.asked) == [27, 28, 29]
    assert numbers(loader.micro_batch(4, 1)) == [27, 28, 29]


def test_a_fetch_that_waits_behind_others_is_overtaken(loader: Loader, blocks: Numbered) -> None:
    blocks.allowed.clear()
    for step in range(2 * AHEAD):
        loader.prefetch(loader.first_block(step, 0))
    blocks.allowed.set()
    for step in range(2 * AHEAD):
        assert numbers(loader.micro_batch(step, 0)) == [6 * step, 6 * step + 1, 6 * step + 2]


def test_the_error_of_a_fetch_ahead_comes_out_where_it_is_asked_for(loader: Loader) -> None:
    loader.prefetch(loader.first_block(100, 0))
    with pytest.raises(Unavailable, match="the hub is away"):
        loader.micro_batch(100, 0)


def test_many_threads_get_the_same_answers(loader: Loader) -> None:
    def ask(number: int) -> list[int]:
        loader.prefetch(loader.first_block(number + 1, 0))
        return numbers(loader.micro_batch(number, 0))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, [*range(50)] * 3))
    assert found == [[6 * n, 6 * n + 1, 6 * n + 2] for n in range(50)] * 3


@pytest.mark.parametrize(
    ("held_out", "limit", "expected"),
    [
        (0, 5, []),
        (1, 5, [[0]]),
        (4, 400, [[0, 1, 2], [3]]),
        (10, 5, [[0, 2, 4], [6, 8]]),
        (10, 10, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]),
    ],
)
def test_validation_blocks_are_spread_evenly_and_each_is_met_once(
    held_out: int, limit: int, expected: list[list[int]]
) -> None:
    with Loader(Numbered(held_out), BATCH) as loader:
        assert [numbers(batch) for batch in loader.validation_batches(limit)] == expected
        assert loader.validation_batch_count(limit) == len(expected)
