"""Transfers against what was measured, without a network: several that contradict are a sample."""

from hypothesis import given
from hypothesis import strategies as st

from legion_client.engine.links import BUFFERED_BYTES, LEAST_BYTES, SAMPLES, SEVERAL, Doubts

KNOWN = 1e8  # bytes/s


def told(doubts: Doubts, bytes_per_s: float, count: int, size_bytes: int = BUFFERED_BYTES) -> list[float]:
    found = (doubts.transferred(size_bytes, size_bytes / bytes_per_s) for _ in range(count))
    return [rate for rate in found if rate is not None]


def test_several_slow_transfers_in_a_row_are_a_sample_and_some_of_those_are_what_is_known() -> None:
    doubts = Doubts(KNOWN)
    assert told(doubts, KNOWN / 5, SEVERAL - 1) == []
    assert told(doubts, KNOWN, 1) == [], "one that fits begins the count anew"
    assert told(doubts, KNOWN / 5, SEVERAL - 1) == []
    (rate,) = told(doubts, KNOWN / 5, 1)
    assert abs(rate - KNOWN / 5) < 1
    assert len(told(doubts, KNOWN / 5, 100 * SEVERAL)) == SAMPLES - 1, "then they contradict no more"
    assert len(told(doubts, KNOWN, 100 * SEVERAL)) == SAMPLES, "and what was measured at first would"


def test_small_transfers_and_those_that_came_before_they_were_read_say_nothing() -> None:
    doubts = Doubts(KNOWN)
    assert told(doubts, KNOWN / 100, 100, LEAST_BYTES - 1) == []
    assert told(doubts, KNOWN * 100, 100, BUFFERED_BYTES - 1) == []
    assert len(told(doubts, KNOWN * 100, SEVERAL, BUFFERED_BYTES)) == 1
    assert doubts.transferred(BUFFERED_BYTES, 0.0) is None


@given(st.lists(st.floats(KNOWN / 3.9, KNOWN * 3.9), max_size=100))
def test_what_is_within_a_factor_of_four_is_no_contradiction(rates: list[float]) -> None:
    doubts = Doubts(KNOWN)
    assert [told(doubts, rate, 1) for rate in rates] == [[]] * len(rates)
