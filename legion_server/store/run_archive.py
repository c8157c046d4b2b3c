"""Runs that are over, and the way from one to the next: what was the old run's goes in the transaction of the new."""

from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.ids import RunId
from legion_server.domain.archive import RunArchive
from legion_server.store import tables as t
from legion_server.store.database import Database

ARCHIVE = TypeAdapter(RunArchive)
# What tells of one run only, and does not say of which.
OF_ONE_RUN = (
    t.runs,
    t.datasets,
    t.checkpoints,
    t.round_parts,
    t.round_plans,
    t.round_records,
    t.step_records,
    t.evaluations,
    t.text_samples,
)


@dataclass(frozen=True, slots=True)
class RunArchives:
    """Reads; `succeed` writes."""

    database: Database

    async def newest(self, limit: int) -> list[RunArchive]:
        """The newest first."""
        query = sa.select(t.run_archives.c.document).order_by(t.run_archives.c.ended_at.desc()).limit(limit)
        async with self.database.reading() as connection:
            return [ARCHIVE.validate_json(document) for document in (await connection.execute(query)).scalars()]

    async def get(self, run_id: RunId) -> RunArchive | None:
        query = sa.select(t.run_archives.c.document).where(t.run_archives.c.run_id == run_id)
        async with self.database.reading() as connection:
            document = (await connection.execute(query)).scalar()
        return ARCHIVE.validate_json(document) if document else None


async def succeed(connection: AsyncConnection, database: Database, archive: RunArchive, following: RunId) -> None:
    """Before the following run, which waited in the queue, is written."""
    for table in OF_ONE_RUN:
        await connection.execute(sa.delete(table))
    row = {"run_id": archive.run_id, "ended_at": archive.ended_at, "document": ARCHIVE.dump_json(archive).decode()}
    await database.put(connection, t.run_archives, row)
    await connection.execute(sa.delete(t.run_queue).where(t.run_queue.c.run_id == following))
