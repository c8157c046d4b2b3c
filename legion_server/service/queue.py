"""Runs that wait for their turn. The only writer of the queue, but for the beginning of its first."""

import asyncio
from dataclasses import replace

from legion.config import RunConfig
from legion.errors import NotFound
from legion.ids import RunId, new_run_id
from legion_server.store.api import Dataset
from legion_server.store.run_queue import QueuedRun, RunQueue


class Queue:
    """`load` before use. Its runs are as saved."""

    def __init__(self, store: RunQueue) -> None:
        self._store = store
        self.changing = asyncio.Lock()
        self.news = asyncio.Event()
        self.runs: tuple[QueuedRun, ...] = ()

    @property
    def first(self) -> QueuedRun | None:
        return self.runs[0] if self.runs else None

    async def load(self) -> None:
        self.runs = tuple(await self._store.listed())

    async def add(self, config: RunConfig, dataset: Dataset) -> QueuedRun:
        """Behind all others."""
        added = QueuedRun(new_run_id(), config, dataset)
        async with self.changing:
            await self._keep((*self.runs, added))
        return added

    def get(self, run_id: RunId) -> QueuedRun:
        """NotFound."""
        found = next((run for run in self.runs if run.run_id == run_id), None)
        if found is None:
            raise NotFound(f"no run {run_id} is in the queue", hint="GET /runs lists the queue.")
        return found

    async def put(self, run_id: RunId, config: RunConfig, dataset: Dataset) -> QueuedRun:
        """Another configuration. NotFound."""
        async with self.changing:
            changed = replace(self.get(run_id), config=config, dataset=dataset)
            await self._keep(tuple(changed if run.run_id == run_id else run for run in self.runs))
        return changed

    async def move(self, run_id: RunId, place: int) -> None:
        """To this place, from 1; behind the last is the last. NotFound."""
        async with self.changing:
            moved = self.get(run_id)
            rest = [run for run in self.runs if run.run_id != run_id]
            rest.insert(place - 1, moved)
            await self._keep(tuple(rest))

    async def remove(self, run_id: RunId) -> None:
        """NotFound."""
        async with self.changing:
            gone = self.get(run_id)
            await self._keep(tuple(run for run in self.runs if run is not gone))

    async def _keep(self, runs: tuple[QueuedRun, ...]) -> None:
        await self._store.replace(runs)
        self.runs = runs
        self.news.set()
