"""What a server that does not lead knows of the run: what the leader has saved, a moment ago."""

import asyncio
import logging

from legion_server.service.coordinator import Coordinator
from legion_server.service.events import Events
from legion_server.store.api import Store
from legion_server.store.database import Database
from legion_server.store.notices import listening

logger = logging.getLogger(__name__)

STATE_S = 2.0  # events are seen at once; all the rest is loaded anew, and no more often than this
POLL_S = 10.0  # also when no notice came


class Following:
    """Events as they are saved, and the state now and then."""

    def __init__(self, database: Database, store: Store, coordinator: Coordinator, events: Events) -> None:
        self._database = database
        self._store = store
        self._coordinator = coordinator
        self._events = events
        self._lock = asyncio.Lock()
        self._loaded_at = float("-inf")
        self._is_behind = True
        self.started = asyncio.Event()  # there is a run, and we know it

    async def serve(self) -> None:
        """Until cancelled. Unavailable when the database is."""
        loop = asyncio.get_running_loop()
        async with listening(self._database) as heard:
            while True:
                await self._look()
                due_s = self._loaded_at + STATE_S - loop.time()
                if self._is_behind and due_s <= 0:
                    await self.load()
                    continue
                if await heard(min(POLL_S, due_s) if self._is_behind else POLL_S):
                    self._is_behind = True

    async def load(self, *, older_than_s: float = 0.0) -> None:
        """All of it, unless it was loaded that lately."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._loaded_at < older_than_s:
                return
            begun, self._is_behind = loop.time(), False
            loaded = await self._store.load()
            if loaded.run is None:
                self._is_behind = True
            else:
                self._coordinator.see(loaded, loaded.run)
                self.started.set()
            self._loaded_at = begun

    async def _look(self) -> None:
        if self.started.is_set():
            self._events.catch_up(await self._store.events_after(self._events.last))
