"""Hours of a day as the volunteer writes them: "22:00-07:00" begins at ten in the evening and ends the next morning."""

import re
from typing import NamedTuple

DAY_MINUTES = 24 * 60
_RANGE = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class Hours(NamedTuple):
    """Minutes of the wall clock after the midnight the day begins with; an `end` above 1440 lies on the next day."""

    begin: int
    end: int


def parse(text: str) -> Hours:
    """ValueError says what such a text looks like. "24:00" is the end of the day."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time of day like 08:00-17:30")
    begin_hour, begin_minute, end_hour, end_minute = map(int, match.groups())
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin_minute > 59 or end_minute > 59 or begin >= DAY_MINUTES or end > DAY_MINUTES:
        raise ValueError(f"{text!r} names a time that does not exist")
    if begin == end:
        raise ValueError(f"{text!r} ends when it begins; the whole day is 00:00-24:00")
    return Hours(begin, end if end > begin else end + DAY_MINUTES)
