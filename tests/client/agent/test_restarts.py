"""When an engine that crashed is not started again."""

from hypothesis import given
from hypothesis import strategies as st

from legion_client.agent.restarts import MOST, WITHIN_S, counted, hopeless


@given(st.lists(st.floats(0.0, 2 * WITHIN_S), max_size=12))
def test_hopeless_is_as_many_crashes_as_fit_in_ten_minutes(gaps_s: list[float]) -> None:
    now, crashes, moments = 0.0, (), []
    for gap_s in gaps_s:
        now += gap_s
        crashes = counted(crashes, now)
        moments.append(now)
        recent = [moment for moment in moments if now - moment < WITHIN_S]
        assert (list(crashes), hopeless(crashes)) == (recent, len(recent) >= MOST)
