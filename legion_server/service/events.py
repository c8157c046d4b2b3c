"""The stream of events: numbered, kept as a bounded tail, followed from any number.

A subscriber holds a position in the common tail, not a queue of its own: a slow one costs no memory, it only
falls off the tail's end and is told so with a `gap`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence

from legion.messages import Event
from legion_server.domain.happenings import Happening
from legion_server.store.api import Numbered

KEPT = 2000  # events


class Events:
    """Written by the coordinator only."""

    def __init__(self, kept: int = KEPT) -> None:
        self._tail: deque[Numbered] = deque(maxlen=kept)
        self._next = 1
        self._news = asyncio.Event()
        self._closed = False

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._next - 1

    @property
    def newest_at(self) -> float:
        """s since 1970; 0.0 before the first."""
        return self._tail[-1].at if self._tail else 0.0

    @property
    def keep_after(self) -> int:
        """Events up to this number will have left the tail once the next one is in it."""
        return self.last - (self._tail.maxlen or 0)

    def restore(self, events: Iterable[Numbered]) -> None:
        """The tail as an earlier process left it, oldest first."""
        for event in events:
            self._tail.append(event)
            self._next = event.number + 1

    def number(self, happenings: Sequence[Happening], at: float) -> tuple[Numbered, ...]:
        """The happenings with the numbers they will have; `publish` takes them once they are saved."""
        return tuple(Numbered(self._next + i, at, happening) for i, happening in enumerate(happenings))

    def publish(self, events: Sequence[Numbered]) -> None:
        if not events:
            return
        self.restore(events)
        self._news.set()
        self._news = asyncio.Event()

    def catch_up(self, events: Iterable[Numbered]) -> None:
        """What another process published; those that are known already do not come again."""
        self.publish([event for event in events if event.number > self.last])

    def close(self) -> None:
        """Every subscriber's iteration ends."""
        self._closed = True
        self._news.set()

    async def follow(self, after: int | None, *, private: bool) -> AsyncIterator[Event]:
        """Events with numbers above `after` (None: only new ones), from the tail and then as they come.

        A number from the future, as after the loss of a database, starts over with a gap.
        """
        position = self.last if after is None else after
        if position > self.last:
            yield self._gap(0, at=self._tail[-1].at if self._tail else 0.0)
            position = 0
        while not self._closed:
            news = self._news
            first = self._tail[0].number if self._tail else self._next
            if position + 1 < first:
                position = first - 1
                yield self._gap(position, at=self._tail[0].at)
            for event in self._since(position):
                position = event.number
                yield _visible(event, private=private)
            if position == self.last and not self._closed:
                await news.wait()

    def _since(self, position: int) -> list[Numbered]:
        if not self._tail or position >= self.last:
            return []
        skip = position + 1 - self._tail[0].number
        return [self._tail[i] for i in range(max(0, skip), min(len(self._tail), max(0, skip) + 100))]

    def _gap(self, number: int, at: float) -> Event:
        return Event(number=number, type="gap", at=at, data={"next": number + 1})


def _visible(event: Numbered, *, private: bool) -> Event:
    happening = event.happening
    data = happening.data | happening.private if private else happening.data
    return Event(number=event.number, type=happening.type, at=event.at, data=data)
