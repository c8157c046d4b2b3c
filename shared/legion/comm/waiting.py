"""Waiting on the loop for a fact to become true, or for the cluster to fail."""

import asyncio
from collections.abc import Callable

from legion.errors import LegionError
from legion.ids import WorkerId


class Changes:
    """Facts that several coroutines wait for. One failure ends every wait, now and later."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}  # woken in the order in which they came
        self.failure: LegionError | None = None
        self.lost_peer: WorkerId | None = None
        self.told_by: WorkerId | None = None  # who said so, if another missed it
        self.on_failure: list[Callable[[], None]] = []

    def happened(self) -> None:
        """Something changed: everyone looks again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def fail(self, error: LegionError, peer: WorkerId | None = None, told_by: WorkerId | None = None) -> None:
        """The first failure stays: it is the cause of those that follow. `peer`: who left, if that is the failure."""
        if self.failure is None:
            self.failure = error
            self.lost_peer, self.told_by = peer, told_by
            for call in self.on_failure:
                call()
        self.happened()

    async def next(self) -> None:
        """Until something changes."""
        if self.failure is not None:
            raise self.failure
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        finally:
            self._waiting.pop(future, None)
        if self.failure is not None:
            raise self.failure

    async def until(self, fact: Callable[[], bool]) -> None:
        while True:
            if self.failure is not None:
                raise self.failure
            if fact():
                return
            await self.next()
