"""What the run has accepted of this computer's work, as a line of the activity now and then."""

import time
from collections.abc import Callable

from legion.ids import RunId
from legion.reports import CreditView
from legion_client.agent.journal import Journal
from legion_client.control.messages import Happening, Said

EVERY_S = 3600.0
KIND = "accepted"
SENTENCE = "The run accepted {tokens} tokens of this computer's work; {total} in all."


class Acceptance:
    """The first at once, then at most one line an hour, over restarts too: what came in between is in the next."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        """`clock`: s since 1970."""
        self._journal = journal
        self._clock = clock
        last = journal.newest(KIND)
        self._told_at = None if last is None else last.at
        self._told = 0 if last is None else _total(last)
        self._run: RunId | None = None

    def count(self, credit: CreditView) -> None:
        """As the server tells it; less than was told already is another run's."""
        if credit.tokens < self._told or (self._run is not None and credit.run_id != self._run):
            self._told = 0
        self._run = credit.run_id
        now = self._clock()
        if credit.tokens == self._told or (self._told_at is not None and 0 <= now - self._told_at < EVERY_S):
            return
        values: dict[str, str | int] = {"tokens": credit.tokens - self._told, "total": credit.tokens}
        self._journal.add(KIND, Said(text=SENTENCE, values=values))
        self._told, self._told_at = credit.tokens, now


def _total(line: Happening) -> int:
    found = line.said[0].values.get("total") if line.said else None
    return found if isinstance(found, int) else 0
