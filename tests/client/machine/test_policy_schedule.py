"""Hours of the week: over midnight, on the days when clocks change, and by the rules of the system's zone."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_client.machine.policy import Pause, Run, decide
from legion_client.machine.presence import State
from legion_client.machine.reasons import Reason
from legion_client.machine.schedule import LocalZone, Week, allowed, changes_at, local_time, next_month
from legion_client.settings.hours import DAY_MINUTES, parse
from tests.client.machine.polite_guest import QUIET, with_values

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # its clocks change by half an hour
HAVANA = ZoneInfo("America/Havana")  # they change at midnight
NEVER: tuple[str, ...] = ()
EVENINGS: Week = (("22:00-07:00",), *([NEVER] * 6))


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-03-02 21:59:59", False),  # a Monday
        ("2026-03-02 22:00:00", True),
        ("2026-03-03 00:00:00", True),
        ("2026-03-03 06:59:59", True),
        ("2026-03-03 07:00:00", False),
        ("2026-03-03 22:00:00", False),
        ("2026-03-02 06:00:00", False),  # Sunday's evening has no hours
    ],
)
def test_hours_over_midnight(at: str, inside: bool) -> None:
    assert allowed(EVENINGS, berlin(at)) is inside


def test_sunday_reaches_into_monday() -> None:
    week: Week = (*([NEVER] * 6), ("20:00-04:00",))
    assert allowed(week, berlin("2026-03-02 03:59"))
    assert not allowed(week, berlin("2026-03-02 04:00"))


def test_until_is_the_next_change() -> None:
    assert changes_at(EVENINGS, berlin("2026-03-02 12:00")) == berlin("2026-03-02 22:00").timestamp()
    assert changes_at(EVENINGS, berlin("2026-03-02 23:00")) == berlin("2026-03-03 07:00").timestamp()
    assert changes_at(EVENINGS, berlin("2026-03-03 07:00")) == berlin("2026-03-09 22:00").timestamp()
    assert changes_at([("00:00-24:00",)] * 7, berlin("2026-03-02 12:00")) is None
    assert changes_at([NEVER] * 7, berlin("2026-03-02 12:00")) is None
    # Ranges that touch are one.
    assert changes_at([("00:00-12:00", "12:00-18:00")] * 7, berlin("2026-03-02 11:00")) == (
        berlin("2026-03-02 18:00").timestamp()
    )


def test_an_hour_that_is_skipped_does_not_come() -> None:
    week: Week = [("02:00-03:00",)] * 7
    # On 29 March 2026, a Sunday, 02:00 is followed by 03:00.
    assert changes_at(week, berlin("2026-03-28 12:00")) == berlin("2026-03-30 02:00").timestamp()
    late: Week = [("02:30-05:00",)] * 7
    begins = changes_at(late, berlin("2026-03-29 01:00"))
    assert begins == berlin("2026-03-29 03:00").timestamp()
    assert datetime.fromtimestamp(begins, UTC) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def test_an_hour_that_comes_twice_counts_twice() -> None:
    week: Week = [("02:00-02:30",)] * 7
    # On 25 October 2026, a Sunday, 03:00 is followed by 02:00.
    for fold in (0, 1):
        assert allowed(week, berlin("2026-10-25 02:15", fold))
        assert not allowed(week, berlin("2026-10-25 02:45", fold))
        ends = changes_at(week, berlin("2026-10-25 02:15", fold))
        assert ends == berlin("2026-10-25 02:30", fold).timestamp()
    again = changes_at(week, berlin("2026-10-25 02:45"))
    assert again == berlin("2026-10-25 02:00", 1).timestamp()
    # The clocks go back out of a range that has begun at three.
    assert changes_at([("02:50-04:00",)] * 7, berlin("2026-10-25 02:55")) == berlin("2026-10-25 02:00", 1).timestamp()


MINUTES = st.integers(0, DAY_MINUTES - 1)
RANGES = st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1])
HOURS = RANGES.map(lambda pair: f"{pair[0] // 60:02}:{pair[0] % 60:02}-{pair[1] // 60:02}:{pair[1] % 60:02}")
WEEKS = st.lists(st.lists(HOURS, max_size=2), min_size=7, max_size=7)
DAYS_OF_CHANGE = (
    datetime(2026, 3, 28),
    datetime(2026, 10, 24),
    datetime(2026, 4, 4),
    datetime(2026, 3, 7),
    datetime(2026, 10, 31),
    datetime(2026, 7, 4),
)


@settings(max_examples=25, deadline=None)
@given(WEEKS, st.sampled_from([BERLIN, LORD_HOWE, HAVANA]), st.sampled_from(DAYS_OF_CHANGE), st.integers(0, 2880))
def test_nothing_changes_before_it_is_said(week: Week, zone: tzinfo, day: datetime, minute: int) -> None:
    now = datetime.fromtimestamp(day.replace(tzinfo=UTC).timestamp() + minute * 60, zone)
    until = changes_at(week, now)
    state = allowed(week, now)
    end = until if until is not None else now.timestamp() + 8 * 86400
    at = now.timestamp()
    while at < end:
        assert allowed(week, datetime.fromtimestamp(at, zone)) == state
        at += 1800 - 60
    assert allowed(week, datetime.fromtimestamp(end - 60, zone)) == state
    if until is not None:
        assert allowed(week, datetime.fromtimestamp(until, zone)) != state


def test_a_closed_schedule_pauses_and_says_until_when() -> None:
    values = {"schedule__enabled": True, "schedule__monday": ["22:00-07:00"], "schedule__tuesday": []}
    decision, _ = decide(with_values(**values), State(), QUIET, berlin("2026-03-02 12:00"))
    assert isinstance(decision, Pause)
    assert [(one.reason, one.until) for one in decision.reasons] == [
        (Reason.SCHEDULE, berlin("2026-03-02 22:00").timestamp())
    ]
    assert isinstance(decide(with_values(**values), State(), QUIET, berlin("2026-03-03 06:59"))[0], Run)
    values["schedule__enabled"] = False
    assert isinstance(decide(with_values(**values), State(), QUIET, berlin("2026-03-02 12:00"))[0], Run)


@pytest.mark.parametrize(
    ("now", "then"),
    [("2026-12-31 23:59", "2027-01-01"), ("2026-01-31 00:00", "2026-02-01"), ("2026-03-29 12:00", "2026-04-01")],
)
def test_the_next_month_begins_at_local_midnight(now: str, then: str) -> None:
    assert next_month(berlin(now)) == berlin(then).timestamp()


@pytest.fixture
def system_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not hasattr(time, "tzset"):
        pytest.skip("the zone of a process cannot be set here")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("system_zone")
def test_the_systems_zone_has_the_same_rules_as_the_named_one() -> None:
    for day in ("2026-03-29", "2026-10-25", "2026-07-01"):
        start = berlin(day).timestamp()
        for at in range(int(start), int(start) + 6 * 3600, 300):
            ours, named = local_time(at), datetime.fromtimestamp(at, BERLIN)
            assert (ours.replace(tzinfo=None), ours.fold) == (named.replace(tzinfo=None), named.fold)
            assert (ours.timestamp(), ours.utcoffset()) == (at, named.utcoffset())
            assert ours.dst() == named.dst()
            assert ours.tzname() == named.tzname()
    week: Week = [("02:30-05:00",)] * 7
    now = berlin("2026-03-28 12:00").timestamp()
    assert changes_at(week, local_time(now)) == berlin("2026-03-29 03:00").timestamp()
    assert LocalZone().utcoffset(None) in (timedelta(hours=1), timedelta(hours=2))


@pytest.mark.parametrize(
    "text", ["", "8-9", "08:00", "08:00-08:00", "25:00-26:00", "08:60-09:00", "24:00-08:00", "08:00-24:01", "0800-0900"]
)
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time of day|does not exist|ends when it begins"):
        parse(text)


@given(MINUTES, MINUTES)
def test_hours_are_read_as_they_are_written(begin: int, end: int) -> None:
    if begin == end:
        return
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    found = parse(f" {text} ")
    assert found.begin == begin
    assert found.end % DAY_MINUTES == end
    assert 0 < found.end - found.begin < DAY_MINUTES
