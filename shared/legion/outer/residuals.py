"""What encoding dropped from the updates of this worker's spans: it waits here until it goes with a later one.

Invariant: of every span, what was combined and is in no anchor lies at one worker. An update that is not committed
leaves what waited before it as it was.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from legion.codec.api import Floats
from legion.layout import Bounds
from legion.rounds import RoundRecord


class Made(NamedTuple):
    """An update of a span. Two terms may have made the same bytes, of which one is committed."""

    term: int
    digest: str


@dataclass(frozen=True, slots=True)
class Promised:
    """Dropped from another worker's update, which may be committed or not."""

    round: int
    bounds: Bounds
    update: Made
    values: Floats


@dataclass(slots=True)
class Residuals:
    """One worker's, on the event loop."""

    _waiting: dict[Bounds, Floats] = field(default_factory=dict)
    _dropped: dict[tuple[Bounds, Made], Floats] = field(default_factory=dict)  # from updates of this round
    _handed: dict[Bounds, Floats] = field(default_factory=dict)  # by other workers, after our last update
    _promised: list[Promised] = field(default_factory=list)

    def take(self, bounds: Bounds) -> Floats | None:
        """For an update that is made now; it waits on, in case that one is not committed."""
        if bounds in self._handed:
            handed, waiting = self._handed.pop(bounds), self._waiting.get(bounds)
            self._waiting[bounds] = handed if waiting is None else np.add(waiting, handed)
        return self._waiting.get(bounds)

    def dropped(self, bounds: Bounds, update: Made, values: Floats) -> None:
        """From our update; what waited before is in it, or among the values."""
        self._dropped[bounds, update] = values

    def settle(self, record: RoundRecord) -> None:
        """What was dropped from committed updates waits; of others, what waited before."""
        for (start, stop), span in zip(record.bounds, record.spans, strict=True):
            bounds, made = Bounds(start, stop), Made(span.term, span.digest)
            if (bounds, made) in self._dropped:
                self._waiting[bounds] = self._dropped[bounds, made]
        self._dropped.clear()
        due = [promise for promise in self._promised if promise.round <= record.round]
        self._promised = [promise for promise in self._promised if promise.round > record.round]
        for promise in due:
            if promise.round == record.round and is_committed(record, promise.bounds, promise.update):
                self.add(promise.bounds, promise.values)

    # Between workers.

    def add(self, bounds: Bounds, values: Floats) -> None:
        """Handed over by another worker."""
        known = self._handed.get(bounds)
        self._handed[bounds] = values if known is None else np.add(known, values)

    def promise(self, promised: Promised) -> None:
        """The same, if the update is committed."""
        self._promised.append(promised)

    def leaving(self, bounds: Bounds) -> tuple[Floats, Made | None] | None:
        """What of the span another worker has to know, and the update that it belongs to, if one is under way."""
        under_way = [(made, values) for (of, made), values in self._dropped.items() if of == bounds]
        if not under_way:
            values = self.take(bounds)
            return None if values is None else (values, None)
        made, values = under_way[-1]
        handed = self._handed.get(bounds)
        return (values if handed is None else np.add(values, handed)), made


def is_committed(record: RoundRecord, bounds: Bounds, update: Made) -> bool:
    """Whether the span has this update in the log."""
    return any(
        (start, stop) == (bounds.start, bounds.stop) and (span.term, span.digest) == update
        for (start, stop), span in zip(record.bounds, record.spans, strict=True)
    )
