"""Two magnitudes for a row: means of its small and its large ones, never the wrong way round."""

import numpy as np
import pytest

from legion.codec.levels import rooms, two_levels

WIDTH = 64


def test_magnitudes_that_are_all_but_equal() -> None:
    """One to four neighbouring floats: where rounding decides what is above the mean, and whether anything is."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, WIDTH + 1, 100_000)
    smallest = (rng.random((counts.size, 1), dtype=np.float32) + 1).view(np.uint32)
    steps = rng.integers(0, rng.integers(1, 5, (counts.size, 1)), (counts.size, WIDTH))
    rows = (smallest + steps.astype(np.uint32)).view(np.float32)
    rows[np.arange(WIDTH) >= counts[:, None]] = 0
    low, high, is_high = two_levels(rows, counts, 1.0, rooms(rows.shape))
    assert (low <= high).all()
    chosen = np.where(np.unpackbits(is_high, axis=1, bitorder="little"), high[:, None], low[:, None])
    assert np.allclose(chosen[rows > 0], rows[rows > 0], rtol=1e-5)


@pytest.mark.parametrize("start", [1.0, 1.5])
def test_levels_are_the_means_of_what_they_stand_for(start: float) -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, WIDTH + 1, 200)
    rows = np.abs(rng.standard_t(3, (200, WIDTH))).astype(np.float32)
    rows[np.arange(WIDTH) >= counts[:, None]] = 0
    low, high, is_high = two_levels(rows, counts, start, rooms(rows.shape))
    flags = np.unpackbits(is_high, axis=1, bitorder="little").astype(bool)
    for row, count, one_low, one_high, above in zip(rows.astype(np.float64), counts, low, high, flags, strict=True):
        small, large = row[:count][~above[:count]], row[:count][above[:count]]
        if large.size:
            assert one_high == pytest.approx(large.mean(), rel=1e-4)
        if small.size:
            assert one_low == pytest.approx(small.mean(), rel=1e-4)
        assert not above[count:].any()
        if small.size and large.size:
            assert small.max() < large.min()
