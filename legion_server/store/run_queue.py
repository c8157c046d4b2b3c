"""Runs that wait for their turn, each with its data prepared."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import TypeAdapter

from legion.config import RunConfig
from legion.ids import RunId
from legion_server.store import tables as t
from legion_server.store.api import Dataset
from legion_server.store.database import Database


@dataclass(frozen=True, slots=True)
class QueuedRun:
    run_id: RunId
    config: RunConfig
    dataset: Dataset


QUEUED = TypeAdapter(QueuedRun)


@dataclass(frozen=True, slots=True)
class RunQueue:
    """`store.run_archive.succeed` takes one out when it begins."""

    database: Database

    async def listed(self) -> list[QueuedRun]:
        """In their order."""
        query = sa.select(t.run_queue.c.document).order_by(t.run_queue.c.place, t.run_queue.c.run_id)
        async with self.database.reading() as connection:
            return [QUEUED.validate_json(document) for document in (await connection.execute(query)).scalars()]

    async def replace(self, runs: Sequence[QueuedRun]) -> None:
        """These, in this order, are the queue."""
        rows = [
            {"run_id": run.run_id, "place": place, "document": QUEUED.dump_json(run).decode()}
            for place, run in enumerate(runs, 1)
        ]
        async with self.database.writing() as connection:
            await connection.execute(sa.delete(t.run_queue))
            await self.database.put(connection, t.run_queue, *rows)
