"""When a compute thread hangs: pure, so every sequence of looks is one call away."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from legion.train.standstill import FACTOR, FIRST_S, LEAST_S, LOOK_S, MOST_COUNTED_S, Progress, Standstill

COMPUTING = Progress(micro_batch=3, crossings=17, computes=True, usual_s=1.0)


def found_after_s(seen: Progress) -> float:
    state = Standstill(0.0).looked(0.0, seen)
    while not state.hangs:
        state = state.looked(state.at + LOOK_S, seen)
    return state.at


def test_a_hang_is_found_in_a_bounded_time() -> None:
    assert LEAST_S < found_after_s(COMPUTING) <= LEAST_S + 2 * LOOK_S
    long = replace(COMPUTING, usual_s=90.0)
    assert FACTOR * 90 < found_after_s(long) <= FACTOR * 90 + 2 * LOOK_S
    assert FIRST_S < found_after_s(replace(COMPUTING, usual_s=None)) <= FIRST_S + 2 * LOOK_S


@given(usual_s=st.floats(min_value=0.01, max_value=1e4), units=st.integers(min_value=1, max_value=100))
def test_a_micro_batch_of_ten_times_the_usual_length_is_no_hang(usual_s: float, units: int) -> None:
    """However its time is divided among units."""
    state, now = Standstill(0.0), 0.0
    for unit in range(units):
        for _ in range(3):
            now += FACTOR * usual_s / units / 3
            seen = Progress(micro_batch=1, crossings=unit, computes=True, usual_s=usual_s)
            state = state.looked(now, seen)
            assert not state.hangs


moves = st.tuples(
    st.floats(min_value=-5.0, max_value=5000.0),
    st.booleans(),  # computes
    st.integers(min_value=0, max_value=1),  # micro-batches begun since
    st.integers(min_value=0, max_value=1),
)


@given(looks=st.lists(moves, max_size=80))
def test_only_looks_at_a_computation_that_did_not_move_count(looks: list[tuple[float, bool, int, int]]) -> None:
    state, seen, still = Standstill(0.0), COMPUTING, 0
    state = state.looked(0.0, seen)
    for gap_s, computes, begun, crossed in looks:
        still = still + 1 if computes and not begun and not crossed else 0
        begun, crossed = seen.micro_batch + begun, seen.crossings + crossed
        seen = replace(seen, computes=computes, micro_batch=begun, crossings=crossed)
        state = state.looked(state.at + gap_s, seen)
        assert state.still_s <= still * MOST_COUNTED_S, "a process that slept counts one look of it"
        assert not (state.hangs and not computes)
