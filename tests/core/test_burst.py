"""The rate of a burst, from when its pieces came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.burst import LEAST_S, rate


def test_the_second_half_counts() -> None:
    slow_start = [(0.0, 100), (1.0, 100), (1.5, 300), (1.6, 250), (1.7, 250)]
    assert rate(slow_start) == pytest.approx(500 / 0.2)


@pytest.mark.parametrize("arrivals", [[], [(3.0, 1000)], [(1.0, 10), (2.0, 5000)]])
def test_what_came_at_once_tells_nothing(arrivals: list[tuple[float, int]]) -> None:
    assert rate(arrivals) is None


def test_pieces_of_one_moment_are_not_infinitely_fast() -> None:
    assert rate([(5.0, 100), (5.0, 100)]) == 100 / LEAST_S


@given(st.integers(2, 50), st.integers(1, 10**6), st.floats(0.01, 10))
def test_an_even_stream_has_its_rate(pieces: int, size: int, every_s: float) -> None:
    found = rate([(number * every_s, size) for number in range(2 * pieces)])
    assert found == pytest.approx(size / every_s)
