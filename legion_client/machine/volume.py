"""How much Legion sent and received in each calendar month, in a small file.

Kept for each month apart: after a clock that was wrong for a while is set right, the true month's count goes on.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from legion_client.machine.sensing import Clock

logger = logging.getLogger(__name__)

FORMAT = 1
SAVE_PERIOD_S = 60.0
MOST_MONTHS = 24


@dataclass(frozen=True, slots=True)
class Traffic:
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.sent_bytes + self.received_bytes


def local_month() -> str:
    """As "2026-11", in local time: that is what providers bill."""
    return time.strftime("%Y-%m")


class MonthlyVolume:
    """May be used from several threads. At most `SAVE_PERIOD_S` of traffic is forgotten in a crash."""

    def __init__(self, path: Path, *, month: Callable[[], str] = local_month, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._month = month
        self._clock = clock
        self._lock = threading.Lock()
        self._months = _load(path)
        self._changed = False
        self._saved = clock()
        self._cannot_save = False

    def add(self, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        if sent_bytes < 0 or received_bytes < 0:
            raise ValueError(f"traffic only grows, not by {sent_bytes} and {received_bytes} bytes")
        with self._lock:
            month = self._month()
            before = self._months.get(month, Traffic())
            self._months[month] = Traffic(before.sent_bytes + sent_bytes, before.received_bytes + received_bytes)
            self._changed = True

    @property
    def this_month(self) -> Traffic:
        with self._lock:
            return self._months.get(self._month(), Traffic())

    def read(self) -> int | None:
        """Bytes of this month; saves them from time to time, so this may block."""
        if self._clock() - self._saved >= SAVE_PERIOD_S:
            self.save()
        return self.this_month.total_bytes

    def save(self) -> None:
        """At the end of the program too. If the file cannot be written, the log says so once and counting goes on."""
        with self._lock:
            self._saved = self._clock()
            if not self._changed:
                return
            for month in sorted(self._months)[:-MOST_MONTHS]:
                if month != self._month():
                    del self._months[month]
            content = _content(self._months)
            self._changed = False
        try:
            write_whole(self._path, content)
        except OSError as error:
            self._changed = True
            if not self._cannot_save:
                logger.warning("the month's traffic cannot be saved path=%s error=%s", self._path, error)
            self._cannot_save = True
        else:
            self._cannot_save = False


def _content(months: dict[str, Traffic]) -> str:
    counts = {month: {"sent": each.sent_bytes, "received": each.received_bytes} for month, each in months.items()}
    return json.dumps({"format": FORMAT, "months": counts}, indent=1)


def _load(path: Path) -> dict[str, Traffic]:
    """A damaged file is put aside and counting starts at 0: the log says so, as the month's limit then lets more by."""
    try:
        return dict(_parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning("the month's traffic cannot be read, counting from 0 path=%s error=%s", path, error)
        return {}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        aside = path.with_suffix(".damaged")
        logger.warning("the month's traffic is damaged, counting from 0 kept=%s error=%r", aside, error)
        with contextlib.suppress(OSError):
            path.replace(aside)
        return {}


def _parse(text: str) -> Iterator[tuple[str, Traffic]]:
    content = json.loads(text)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} is of another version of Legion")
    for month, counts in content["months"].items():
        traffic = Traffic(int(counts["sent"]), int(counts["received"]))
        if min(traffic.sent_bytes, traffic.received_bytes) < 0:
            raise ValueError(f"{month} has a negative count")
        time.strptime(month, "%Y-%m")
        yield month, traffic


def write_whole(path: Path, content: str) -> None:
    """Whole or not at all, also if the power fails meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
