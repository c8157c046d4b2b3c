"""Times as people type them."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import Unusable
from legion_client.commands.durations import LONGEST_S, MORNING_HOUR, clock, until


@pytest.mark.parametrize(
    ("text", "length_s"), [("90s", 90), ("15m", 900), ("1h", 3600), ("1h30m", 5400), ("2d", 172_800), (" 4H ", 14_400)]
)
def test_lengths(text: str, length_s: int) -> None:
    assert until(text, 1000.0) == 1000.0 + length_s


@pytest.mark.parametrize("text", ["", "0m", "15", "m", "1.5h", "-1h", "1h 30m", "soon", "367d", "9999999h", "1h\n2h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Unusable, match="is not a time like"):
        until(text, 0.0)


@given(st.integers(1, LONGEST_S))
def test_any_number_of_seconds_up_to_a_year(length_s: int) -> None:
    minutes, seconds = divmod(length_s, 60)
    text = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    assert until(text, 0.0) == length_s


@given(st.datetimes(datetime(2020, 1, 1), datetime(2037, 1, 1)))
def test_tomorrow_is_the_next_morning(now: datetime) -> None:
    morning = datetime.fromtimestamp(until("tomorrow", now.timestamp()))
    assert (morning.date() - now.date()).days == 1
    assert (morning.hour, morning.minute, morning.second) == (MORNING_HOUR, 0, 0)


def test_a_moment_shows_its_date_unless_it_is_today() -> None:
    noon = datetime(2030, 5, 6, 12, 0).timestamp()
    assert clock(noon + 3600, noon) == "13:00"
    assert clock(noon + 86_400, noon) == "2030-05-07 12:00"
