"""A week's hours as minutes on the wall clock, and back as ranges of days. Without Qt.

Invariant: `covered(ranges(minutes)) == minutes`. A week has 7 x 1440 minutes from Monday's midnight on; what begins on
Sunday evening may end on Monday morning.
"""

from collections.abc import Sequence
from typing import Literal

from legion_client.settings.hours import DAY_MINUTES, parse

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
WEEK_MINUTES = 7 * DAY_MINUTES
HOUR_MINUTES = 60
NOON = DAY_MINUTES // 2

Minutes = bytes  # of the week, each 1 where it counts and 0 where not
Filled = Literal["none", "part", "all"]


def covered(week: Sequence[Sequence[str]]) -> Minutes:
    """`week`: ranges by the day they begin on, from Monday on. What cannot be read covers nothing."""
    minutes = bytearray(WEEK_MINUTES)
    for day, texts in enumerate(week):
        for text in texts:
            try:
                begin, end = parse(text)
            except ValueError:
                continue
            for minute in range(day * DAY_MINUTES + begin, day * DAY_MINUTES + end):
                minutes[minute % WEEK_MINUTES] = 1
    return bytes(minutes)


def ranges(minutes: Minutes) -> list[list[str]]:
    """By the day they begin on. An evening and the morning after it are one range, as people say it."""
    days = [_runs(minutes[day * DAY_MINUTES : (day + 1) * DAY_MINUTES]) for day in range(7)]
    told: list[list[str]] = [[] for _ in days]
    heads = [runs[0] if runs and runs[0][0] == 0 else None for runs in days]
    joined = [_continues(days[day], heads[(day + 1) % 7]) for day in range(7)]
    for day, runs in enumerate(days):
        for begin, end in runs:
            if begin == 0 and joined[day - 1]:
                continue  # it belongs to the evening before
            head = heads[(day + 1) % 7]
            if end == DAY_MINUTES and joined[day] and head is not None:
                end = head[1]
            told[day].append(f"{_clock(begin)}-{_clock(end)}")
    return told


def hour(minutes: Minutes, day: int, hour: int) -> Filled:
    start = day * DAY_MINUTES + hour * HOUR_MINUTES
    count = sum(minutes[start : start + HOUR_MINUTES])
    return "none" if count == 0 else "all" if count == HOUR_MINUTES else "part"


def with_hours(minutes: Minutes, cells: Sequence[tuple[int, int]], *, on: bool) -> Minutes:
    """`cells`: (day, hour), which are wholly on or off then."""
    changed = bytearray(minutes)
    for day, hour in cells:
        start = day * DAY_MINUTES + hour * HOUR_MINUTES
        changed[start : start + HOUR_MINUTES] = bytes([on]) * HOUR_MINUTES
    return bytes(changed)


def _runs(day: bytes) -> list[tuple[int, int]]:
    """(begin, end) of what lies together."""
    found, begin = [], None
    for minute, on in enumerate([*day, 0]):
        if on and begin is None:
            begin = minute
        elif not on and begin is not None:
            found.append((begin, minute))
            begin = None
    return found


def _continues(runs: list[tuple[int, int]], head: tuple[int, int] | None) -> bool:
    """Whether the last run of a day is an evening that goes on into the next morning."""
    return bool(runs) and head is not None and runs[-1][1] == DAY_MINUTES and head[1] <= NOON <= runs[-1][0]


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
