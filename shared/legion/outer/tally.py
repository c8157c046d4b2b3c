"""What a worker turned away or found damaged, and no report of a span can tell: it goes with the next anchor's digest.

A span's report is made when the span closes. What comes later is refused all the same, and must not pass silently.
"""

import threading
from collections import Counter

from legion.rounds import RootReport


class Tally:
    """One worker's. Parts are checked in threads, so counting has a lock."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._damaged = 0

    def refused(self, reason: str) -> None:
        """A part was turned away."""
        with self._counting:
            self._refused[reason] += 1

    def damaged(self) -> None:
        """An update came that is not what its name says."""
        with self._counting:
            self._damaged += 1

    def told_with(self, report: RootReport) -> RootReport:
        """The report with all that was counted since the last one."""
        with self._counting:
            told = {"refused": dict(sorted(self._refused.items())), "damaged": self._damaged}
            self._refused.clear()
            self._damaged = 0
        return report.model_copy(update=told)
