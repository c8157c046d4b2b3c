"""One run after another: what is queued begins by itself once the run before it is complete or stopped.

Invariant: what works on a run's files (`parts`) rests while another run takes its place.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from legion.errors import LegionError
from legion_server.domain import checkpoints as cp
from legion_server.domain.runs import OVER
from legion_server.service.archiving import archived
from legion_server.service.coordinator import Coordinator
from legion_server.service.dataset import Datasets
from legion_server.service.queue import Queue
from legion_server.service.run_files import RunFiles
from legion_server.store.api import Store

logger = logging.getLogger(__name__)

RETRY_S = 10.0  # after an error of the disk or the database


@dataclass(frozen=True, slots=True)
class Part:
    """Of one run: a task, and a lock that it holds while it is at work."""

    serve: Callable[[], Coroutine[Any, Any, None]]
    at_work: asyncio.Lock


class Succession:
    """`serve` is its one task, and the owner of the parts."""

    def __init__(
        self,
        coordinator: Coordinator,
        store: Store,
        queue: Queue,
        datasets: Datasets,
        files: RunFiles,
        parts: Callable[[], Sequence[Part]],
        *,
        assembling: bool,
    ) -> None:
        """`parts`: those of a run that begins."""
        self._coordinator = coordinator
        self._store = store
        self._queue = queue
        self._datasets = datasets
        self._files = files
        self._parts = parts
        self._assembling = assembling

    async def serve(self) -> None:
        """Until cancelled."""
        await self._files.settle(self._coordinator.run.run_id, is_new=self._coordinator.is_new)
        while True:
            parts = self._parts()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part.serve()) for part in parts]
                await self._due()
                for part in parts:
                    await part.at_work.acquire()
                for task in tasks:
                    task.cancel()
            await self._until_done()

    async def _due(self) -> None:
        """Returns once the run is over, nothing is left to be done for it, and another waits."""
        while not self._is_due():
            self._queue.news.clear()
            waiting = [asyncio.create_task(event.wait()) for event in (self._queue.news, self._coordinator.settled)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()

    def _is_due(self) -> bool:
        self._coordinator.settled.clear()
        run = self._coordinator.run
        if run.phase not in OVER - {"failed"} or self._queue.first is None:
            return False
        complete = [c for c in self._coordinator.state.checkpoints.values() if c.complete]
        given_up = self._coordinator.given_up
        return not self._assembling or all(c.assembled or c.folder_name in given_up for c in complete)

    async def _until_done(self) -> None:
        """However long the disk is full: the run before is whole until then, and the one after from then on."""
        before = self._coordinator.run.run_id
        while True:
            try:
                async with self._datasets.preparing, self._queue.changing:
                    if self._coordinator.run.run_id == before:
                        await self._change()
                    await self._queue.load()
                await self._files.settle(self._coordinator.run.run_id, is_new=False)
            except LegionError as error:
                logger.error("next run cannot begin, trying again in_s=%.0f reason=%s", RETRY_S, error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _change(self) -> None:
        state, following = self._coordinator.state, self._queue.first
        if following is None:  # it was taken out meanwhile
            return
        archive = await archived(state, self._store, self._coordinator.now)
        newest = cp.newest_complete(state.checkpoints)
        if newest is not None:
            await self._files.keep(state.run.run_id, newest)
        await self._coordinator.succeed(archive, following.run_id, following.config, following.dataset)
        self._datasets.failure = None
        logger.info("next run begins run=%s after=%s", following.run_id, archive.run_id)
