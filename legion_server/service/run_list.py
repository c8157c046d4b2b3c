"""Runs as the admin and everybody else see them: under way, queued, over."""

from pathlib import Path
from typing import Any

from legion.config import RunConfig
from legion.errors import ConfigLocked, NotFound
from legion.ids import RunId
from legion.runs import QueueChange, RunSummary, RunsView, RunView
from legion_server.service.coordinator import Coordinator
from legion_server.service.dataset import Datasets
from legion_server.service.metrics import Metrics
from legion_server.service.queue import Queue
from legion_server.service.run_files import RunFiles
from legion_server.store.api import Dataset
from legion_server.store.run_archive import RunArchives
from legion_server.store.run_queue import QueuedRun

MOST_OVER = 100  # in the list


class RunList:
    """Reads all of it; changes the queue."""

    def __init__(
        self,
        coordinator: Coordinator,
        metrics: Metrics,
        queue: Queue,
        archives: RunArchives,
        datasets: Datasets,
        files: RunFiles,
    ) -> None:
        self._coordinator = coordinator
        self._metrics = metrics
        self._queue = queue
        self._archives = archives
        self._datasets = datasets
        self._files = files

    async def listed(self) -> RunsView:
        over = await self._archives.newest(MOST_OVER)
        return RunsView(
            active=await self._active(),
            queued=tuple(_queued(run, place) for place, run in enumerate(self._queue.runs, 1)),
            over=tuple(archive.summary for archive in over),
        )

    async def view(self, run_id: RunId) -> RunView:
        """NotFound."""
        run = self._coordinator.run
        if run_id == run.run_id:
            failure = run.failure.public if run.failure else None
            return RunView(summary=await self._active(), config=run.config, failure=failure)
        if any(queued.run_id == run_id for queued in self._queue.runs):
            return self._of_queue(run_id)
        archive = await self._archives.get(run_id)
        if archive is None:
            raise NotFound(f"there is no run {run_id}", hint="GET /runs lists them.")
        return archive.view

    async def kept_file(self, run_id: RunId, name: str) -> Path:
        """Of a run that is over. NotFound."""
        archive = await self._archives.get(run_id)
        if archive is None or archive.checkpoint is None or name not in archive.checkpoint.files:
            raise NotFound(f"no file {name} is kept of run {run_id}", hint="GET /runs/{run_id} lists what is kept.")
        return self._files.checkpoint(run_id) / name

    async def add(self, change: dict[str, Any]) -> RunView:
        """The configuration of the last in the queue, or of the run under way, with `change`; its data is prepared."""
        async with self._datasets.preparing:
            config, dataset = await self._datasets.merged(*self._last(), change)
            added = await self._queue.add(config, dataset)
        return self._of_queue(added.run_id)

    async def change(self, run_id: RunId, change: QueueChange) -> RunView:
        """NotFound; ConfigLocked for the run under way, and for those that are over."""
        if run_id == self._coordinator.run.run_id or await self._archives.get(run_id) is not None:
            raise ConfigLocked(f"run {run_id} is not in the queue", hint="Only what waits there can be changed so.")
        if change.config is not None:
            async with self._datasets.preparing:
                before = self._queue.get(run_id)
                config, dataset = await self._datasets.merged(before.config, before.dataset, change.config)
                await self._queue.put(run_id, config, dataset)
        if change.place is not None:
            await self._queue.move(run_id, change.place)
        return self._of_queue(run_id)

    def _last(self) -> tuple[RunConfig, Dataset | None]:
        if self._queue.runs:
            return self._queue.runs[-1].config, self._queue.runs[-1].dataset
        return self._coordinator.run.config, self._coordinator.state.dataset

    def _of_queue(self, run_id: RunId) -> RunView:
        queued = self._queue.get(run_id)
        return RunView(summary=_queued(queued, self._queue.runs.index(queued) + 1), config=queued.config)

    async def _active(self) -> RunSummary:
        run, view = self._coordinator.run, await self._metrics.view(None, private=True)
        rounds = self._coordinator.state.rounds
        return RunSummary(
            run_id=run.run_id,
            state="active",
            phase=run.phase,
            begun_at=run.begun_at,
            ended_at=run.ended_at,
            steps=run.config.steps,
            step=run.step,
            tokens=rounds.total_tokens if rounds else view.tokens,
            participants=len(rounds.accepted) if rounds else len(view.workers),
            loss=view.recent[-1].loss if view.recent else None,
            validation_loss=view.evaluations[-1].loss if view.evaluations else None,
        )


def _queued(run: QueuedRun, place: int) -> RunSummary:
    return RunSummary(run_id=run.run_id, state="queued", place=place, steps=run.config.steps)
