"""All rows of a database as lines of JSON, and back: into a database of the other kind as well."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.errors import StorageFailed
from legion_server.store.database import Database
from legion_server.store.migrate import MIGRATIONS
from legion_server.store.tables import leadership, ledger_moments, metadata

AT_ONCE = 5_000  # rows
OWN = (leadership,)  # of the servers that use this very database: not part of what it holds
TABLES = tuple(table for table in metadata.sorted_tables if table not in OWN)  # referred to, before who refers
SINCE_THE_START = (ledger_moments,)  # an empty database has a row in these


class Snapshot:
    """What the database held at one moment, however long it takes to read."""

    def __init__(self, connection: AsyncConnection, revision: str) -> None:
        self._connection = connection
        self.revision = revision

    async def lines(self, table: sa.Table) -> AsyncIterator[bytes]:
        result = await self._connection.stream(sa.select(table).execution_options(yield_per=AT_ONCE))
        async for row in result:
            yield json.dumps(list(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def newest_revision() -> str:
    return str(ScriptDirectory(str(MIGRATIONS)).get_current_head())


async def revision_of(connection: AsyncConnection) -> str:
    """StorageFailed when the schema is not that of this version of Legion."""
    found = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    if found != newest_revision():
        raise StorageFailed(
            f"the database has schema {found or 'none'}, and this version of Legion writes {newest_revision()}",
            hint="Start the server of this version with it once, or use the Legion version that wrote it.",
        )
    return found


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[Snapshot]:
    async with database.reading() as connection:
        # SQLite's moment is that of the first look at a table.
        yield Snapshot(connection, await revision_of(connection))


async def is_empty(database: Database) -> bool:
    """A database that a server has never used; its tables may be there."""
    async with database.reading() as connection:
        there = await connection.run_sync(lambda sync: set(sa.inspect(sync).get_table_names()))
        for table in TABLES:
            if table.name in there and table not in SINCE_THE_START:
                row = await connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))
                if row.first() is not None:
                    return False
    return True


async def load(database: Database, lines_by_table: Mapping[str, Iterable[bytes]]) -> None:
    """All of it or nothing. StorageFailed when the database is not empty, or the lines are not its tables'."""
    if not await is_empty(database):
        raise StorageFailed("the database is not empty", hint="Restore into a database that nothing was written to.")
    await database.open()
    async with database.writing() as connection:
        for table in SINCE_THE_START:
            await connection.execute(sa.delete(table))
        for table in TABLES:
            await _fill(connection, table, lines_by_table[table.name])


async def _fill(connection: AsyncConnection, table: sa.Table, lines: Iterable[bytes]) -> None:
    names = [column.name for column in table.columns]
    rows: list[dict[str, object]] = []
    for line in lines:
        rows.append(dict(zip(names, json.loads(line), strict=True)))
        if len(rows) == AT_ONCE:
            await connection.execute(sa.insert(table), rows)
            rows = []
    if rows:
        await connection.execute(sa.insert(table), rows)
    await _count_on(connection, table)


async def _count_on(connection: AsyncConnection, table: sa.Table) -> None:
    """PostgreSQL numbers rows by a sequence, which rows that bring their number leave behind."""
    number = table.autoincrement_column
    if connection.dialect.name != "postgresql" or number is None or number.autoincrement is False:
        return
    sequence = sa.func.pg_get_serial_sequence(table.name, number.name)
    most = sa.select(sa.func.max(number)).scalar_subquery()
    await connection.execute(sa.select(sa.func.setval(sequence, most)).where(most.is_not(None)))
