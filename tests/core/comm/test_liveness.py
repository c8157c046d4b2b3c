"""When a member that is connected counts as lost: pure, so every sequence of words and looks is one call away."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.comm.liveness import (
    BEAT_S,
    FACTOR,
    HALVES_S,
    LEAST_S,
    LOOK_S,
    MOST_COUNTED_S,
    MOST_S,
    SLOWEST_AT_FIRST_S,
    Liveness,
)

SETTLED = Liveness(0.0, slowest_s=0.0)
gaps_s = st.floats(min_value=0.0, max_value=1000.0, allow_nan=False)


def listened(state: Liveness, seconds: float) -> Liveness:
    """Nothing came, and the listener looked as often as it should."""
    for look in itertools.count(1):
        if look * LOOK_S > seconds:
            return state
        state = state.looked(state.at + LOOK_S)
    raise AssertionError


def found_after_s(state: Liveness) -> float:
    for look in itertools.count(1):
        state = state.looked(state.at + LOOK_S)
        if state.is_lost():
            return look * LOOK_S
    raise AssertionError


def test_whoever_stops_is_found_within_five_seconds_of_its_last_word() -> None:
    assert LEAST_S < found_after_s(SETTLED) <= 5.0
    assert LEAST_S > 3 * BEAT_S, "three beats may be late or lost"


def test_whoever_has_just_begun_is_given_more_time_and_settles() -> None:
    assert found_after_s(Liveness(0.0)) > LEAST_S + 1
    state = Liveness(0.0)
    while state.at < 2 * HALVES_S:
        state = listened(state, BEAT_S).heard(state.at + BEAT_S)
    assert found_after_s(state) <= 5.0


@given(silence_s=st.floats(min_value=0.0, max_value=LEAST_S))
def test_a_silence_that_ended_is_allowed_again_for_a_while(silence_s: float) -> None:
    state = listened(SETTLED, silence_s)
    assert not state.is_lost()
    again = state.heard(state.at)
    assert again.limit_s() == pytest.approx(max(LEAST_S, min(MOST_S, FACTOR * state.silent_s)))
    assert listened(again, state.silent_s).is_lost() is False


@given(moments=st.lists(st.tuples(gaps_s, st.booleans()), max_size=60))
def test_nobody_is_lost_for_looks_that_the_listener_missed(moments: list[tuple[float, bool]]) -> None:
    """However long it slept itself: a look counts for two at most, and limits stay within their bounds."""
    state, looks, silent_before = Liveness(0.0), 0, 0.0
    for gap_s, word in moments:
        now = state.at + gap_s
        state = state.heard(now) if word else state.looked(now)
        looks = 0 if word else looks + 1
        assert state.at == now
        assert state.silent_s <= looks * MOST_COUNTED_S
        assert state.silent_s >= (0.0 if word else silent_before)
        assert LEAST_S <= state.limit_s() <= MOST_S
        assert state.slowest_s <= max(SLOWEST_AT_FIRST_S, MOST_COUNTED_S * len(moments))
        assert not (state.is_lost() and looks < LEAST_S / MOST_COUNTED_S)
        silent_before = state.silent_s


@given(gap_s=st.floats(min_value=-100.0, max_value=0.0))
def test_a_clock_that_goes_back_counts_nothing(gap_s: float) -> None:
    state = Liveness(50.0, silent_s=1.0)
    assert state.looked(50.0 + gap_s) == state


@given(carrying_s=st.floats(min_value=0.0, max_value=100.0))
def test_a_word_may_wait_behind_what_is_under_way(carrying_s: float) -> None:
    assert SETTLED.limit_s(carrying_s) == LEAST_S + carrying_s
    assert not Liveness(0.0, silent_s=LEAST_S + carrying_s, slowest_s=0.0).is_lost(carrying_s)
    assert Liveness(0.0, silent_s=LEAST_S + carrying_s + LOOK_S, slowest_s=0.0).is_lost(carrying_s)
