"""Words, numbers and times for people. Nothing else in the app writes a number or a plural.

`English` needs no Qt; `QtWords` in `language` has Qt's translations and the locale's own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the tray shows without pydantic
    from legion_client.control.messages import Said

SIZES = ("B", "kB", "MB", "GB", "TB")
LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


class Words(Protocol):
    """Source texts are English; values are filled in with str.format after the translation."""

    def tr(self, text: str, /, **values: object) -> str: ...

    def count(self, number: int, one: str, many: str) -> str:
        """`one` or `many`, as the language wants it for this number; {n} stands for the number."""

    def number(self, value: float, digits: int = 0) -> str: ...

    def time(self, at: datetime) -> str:
        """Hours and minutes."""

    def date(self, at: datetime) -> str:
        """A weekday with a short date."""


class English:
    """Without translations, for tests and where Qt is not running."""

    def tr(self, text: str, /, **values: object) -> str:
        return text.format(**values) if values else text

    def count(self, number: int, one: str, many: str) -> str:
        return (one if number == 1 else many).format(n=self.number(number))

    def number(self, value: float, digits: int = 0) -> str:
        return f"{value:,.{digits}f}"

    def time(self, at: datetime) -> str:
        return f"{at:%H:%M}"

    def date(self, at: datetime) -> str:
        return f"{at:%a} {at.day} {at:%b}"


def spoken(words: Words, parts: Sequence[Said], otherwise: str) -> str:
    """What the agent says, in the language of the window; `otherwise`: from an agent that says only that."""
    if not parts:
        return otherwise
    return " ".join(words.tr(part.text, **_filled(words, part)) for part in parts)


def _filled(words: Words, part: Said) -> dict[str, object]:
    return {key: words.number(value) if isinstance(value, int) else value for key, value in part.values.items()}


def amount(words: Words, value: float) -> str:
    """Three figures or more: 842, 12,345, 1.23 M."""
    for size, letter in LARGE:
        if abs(value) >= size:
            return f"{words.number(value / size, 2)} {letter}"
    return words.number(value, 1 if 0 < abs(value) < 10 and value != int(value) else 0)


def percent(words: Words, share: float) -> str:
    """Small shares keep two significant figures, so that a volunteer's part of a large run is not 0 %."""
    value = share * 100
    digits = 0 if value >= 10 or value <= 0 else min(6, 1 - math.floor(math.log10(value)))
    return f"{words.number(value, digits)} %"


def size(words: Words, size_bytes: float) -> str:
    """In powers of 1000, as disks and networks count."""
    value, unit = float(size_bytes), SIZES[0]
    for unit in SIZES:
        if abs(value) < 999.5 or unit == SIZES[-1]:
            break
        value /= 1000
    return f"{words.number(value, 1 if unit != 'B' and value < 10 else 0)} {unit}"


def memory(words: Words, size_bytes: float) -> str:
    """In powers of 1024, as memory is sold."""
    value = size_bytes / 2**30
    return f"{words.number(value, 1 if value < 10 and round(value, 1) != round(value) else 0)} GB"


def duration(words: Words, seconds: float) -> str:
    """The two largest units at most; less than a minute counts as one."""
    minutes = max(1, math.ceil(seconds / 60))
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return words.count(minutes, "{n} minute", "{n} minutes")
    if hours >= 48:
        return words.count(round(hours / 24), "{n} day", "{n} days")
    told = words.count(hours, "{n} hour", "{n} hours")
    return told if not minutes else words.tr("{hours} {minutes} min", hours=told, minutes=minutes)


def moment(words: Words, at: float, now: float) -> str:
    """The time, with the day if that is not today; local time."""
    then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now).date()
    if then.date() == today:
        return words.time(then)
    if then.date() == today + timedelta(days=1):
        return words.tr("tomorrow {time}", time=words.time(then))
    return f"{words.date(then)} {words.time(then)}"
