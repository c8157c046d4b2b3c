"""Hours of the week: to a grid and back, whatever stands in the file."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_client.machine.schedule import allowed
from legion_client.ui.week import WEEK_MINUTES, covered, hour, ranges, with_hours

MONDAY = datetime(2027, 3, 1)
TIMES = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
RANGES = st.tuples(TIMES, TIMES | st.just("24:00")).filter(lambda ends: ends[0] != ends[1]).map("-".join)
WEEKS = st.lists(st.lists(RANGES, max_size=3), min_size=7, max_size=7)
NOTHING: list[list[str]] = [[] for _ in range(7)]


@given(WEEKS)
def test_what_is_written_covers_what_was_read(week: list[list[str]]) -> None:
    minutes = covered(week)
    assert covered(ranges(minutes)) == minutes


@given(WEEKS, st.integers(0, WEEK_MINUTES - 1))
def test_the_grid_and_the_policy_mean_the_same(week: list[list[str]], minute: int) -> None:
    assert covered(week)[minute] == allowed(week, MONDAY + timedelta(minutes=minute))


@pytest.mark.parametrize(
    ("week", "written"),
    [
        (NOTHING, NOTHING),
        ([["00:00-24:00"]] * 7, [["00:00-24:00"]] * 7),
        ([["18:00-07:00"]] * 7, [["18:00-07:00"]] * 7),
        ([["22:00-23:00", "23:00-01:30"], *NOTHING[1:]], [["22:00-01:30"], *NOTHING[1:]]),
        ([*NOTHING[:6], ["23:00-01:00"]], [*NOTHING[:6], ["23:00-01:00"]]),
        # Together they last longer than a day, so that one range cannot say it; or nobody would.
        ([["08:00-24:00"], ["00:00-08:00"], *NOTHING[2:]], [["08:00-24:00"], ["00:00-08:00"], *NOTHING[2:]]),
        ([["23:00-24:00"], ["00:00-22:00"], *NOTHING[2:]], [["23:00-24:00"], ["00:00-22:00"], *NOTHING[2:]]),
    ],
)
def test_ranges_are_written_as_people_say_them(week: list[list[str]], written: list[list[str]]) -> None:
    assert ranges(covered(week)) == written


def test_an_hour_is_on_off_or_in_part_and_the_others_stay_as_they_were() -> None:
    week = covered([["22:30-07:15"], *NOTHING[1:]])
    assert [hour(week, 0, 21), hour(week, 0, 22), hour(week, 0, 23), hour(week, 1, 7)] == [
        "none",
        "part",
        "all",
        "part",
    ]
    assert ranges(with_hours(week, [(1, 7)], on=False))[0] == ["22:30-07:00"]
    assert ranges(with_hours(week, [(0, 22), (0, 12)], on=True))[0] == ["12:00-13:00", "22:00-07:15"]


def test_what_is_no_range_covers_nothing() -> None:
    assert covered([["nonsense", "25:00-26:00"], *NOTHING[1:]]) == bytes(WEEK_MINUTES)
