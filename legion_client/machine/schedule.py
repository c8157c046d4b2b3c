"""The hours of the week in which to compute, by the wall clock; changes of the clocks are those of `now`'s zone."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from legion_client.settings.hours import DAY_MINUTES, parse

Week = Sequence[Sequence[str]]  # seven days from Monday on, each with its ranges


class LocalZone(tzinfo):
    """The system's zone with its rules, so that times in other weeks than `now` are right too.

    `datetime.astimezone()` alone gives a fixed offset, that of now.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(seconds=_local(moment).tm_gmtoff)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if _local(moment).tm_isdst > 0 else 0)

    def tzname(self, moment: datetime | None) -> str:
        return _local(moment).tm_zone

    def fromutc(self, moment: datetime) -> datetime:
        at = moment.replace(tzinfo=UTC).timestamp()
        plain = datetime(*time.localtime(at)[:6], microsecond=moment.microsecond)
        # Of a wall clock time that comes twice, the first one is another moment.
        return plain.replace(tzinfo=self, fold=int(abs(plain.timestamp() - at) > 1))


def _local(moment: datetime | None) -> time.struct_time:
    return time.localtime(None if moment is None else moment.replace(tzinfo=None).timestamp())


def local_time(at: float) -> datetime:
    """`at` (s since 1970) by this computer's wall clock."""
    return datetime.fromtimestamp(at, LocalZone())


def allowed(week: Week, now: datetime) -> bool:
    """Whether the wall clock of `now` lies in a range of its day, or in one of the day before that has not ended."""
    minute = now.hour * 60 + now.minute
    today, yesterday = week[now.weekday()], week[(now.weekday() - 1) % 7]
    return any(begin <= minute < end for begin, end in map(parse, today)) or any(
        minute + DAY_MINUTES < end for _, end in map(parse, yesterday)
    )


def changes_at(week: Week, now: datetime) -> float | None:
    """When `allowed` next says otherwise, in s since 1970; None: not within eight days, so never."""
    state = allowed(week, now)
    for at in _edges(week, now):
        if at > now.timestamp() and allowed(week, datetime.fromtimestamp(at, now.tzinfo)) != state:
            return at
    return None


def _edges(week: Week, now: datetime) -> Iterator[float]:
    """All moments from today on at which the answer could change, in their order, a day at a time: few are wanted."""
    today = now.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0, fold=0)
    minutes = {minute for day in week for hours in map(parse, day) for minute in (hours.begin, hours.end % DAY_MINUTES)}
    for day in range(9):
        date = (today + timedelta(days=day)).replace(tzinfo=now.tzinfo)
        moments = set(_jumps(date))
        for minute in minutes:
            wall = date.replace(hour=minute // 60, minute=minute % 60)
            moments.update((wall.timestamp(), wall.replace(fold=1).timestamp()))
        yield from sorted(moments)


def _jumps(date: datetime) -> Iterator[float]:
    """When the clocks change between this midnight and the next: the wall clock may jump into or out of a range."""
    zone = date.tzinfo
    tomorrow = (date.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    low, high = date.timestamp(), tomorrow.timestamp()
    if datetime.fromtimestamp(low, zone).utcoffset() == datetime.fromtimestamp(high, zone).utcoffset():
        return
    before = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    yield high


def next_month(now: datetime) -> float:
    """When the next calendar month begins, in s since 1970."""
    year, month = divmod(now.year * 12 + now.month, 12)
    return now.replace(year=year, month=month + 1, day=1, hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()
