"""How long, as people type it: 90s, 15m, 1h30m, 2d, or until tomorrow."""

import re
from datetime import datetime, timedelta

from legion.errors import Unusable

MORNING_HOUR = 8  # "until tomorrow" ends then, in the volunteer's own time
LONGEST_S = 366 * 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,6}[smhd])+")
_PART = re.compile(r"(\d+)([smhd])")


def until(text: str, now: float) -> float:
    """When `text` from `now` on (s since 1970) ends."""
    word = text.strip().lower()
    if word == "tomorrow":
        return _morning_after(now)
    length_s = sum(int(count) * _UNITS_S[unit] for count, unit in _PART.findall(word))
    if not _DURATION.fullmatch(word) or not 0 < length_s <= LONGEST_S:
        raise Unusable(f"{text!r} is not a time like 15m, 1h30m, 4h, 2d or tomorrow, of at most a year")
    return now + length_s


def _morning_after(now: float) -> float:
    morning = datetime.fromtimestamp(now).replace(hour=MORNING_HOUR, minute=0, second=0, microsecond=0)
    return (morning + timedelta(days=1)).timestamp()


def clock(moment: float, now: float) -> str:
    """The moment as a clock shows it, with the date unless it is today."""
    then = datetime.fromtimestamp(moment)
    same_day = then.date() == datetime.fromtimestamp(now).date()
    return f"{then:%H:%M}" if same_day else f"{then:%Y-%m-%d %H:%M}"
