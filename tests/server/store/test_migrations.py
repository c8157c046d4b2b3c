"""Databases of every schema there has been, with rows in all of their tables, become today's with these rows."""

from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from legion_server.store import proof
from legion_server.store.database import Database
from legion_server.store.migrate import MIGRATIONS, alembic_config
from legion_server.store.tables import metadata

REVISIONS = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
ROWS = 3
REPLACED = {"round_state", "credit_sums"}  # by round_parts, and by boards
FIRST_BOARDS = "0006"  # what comes after it has boards of its own, which the rows here do not fit


def value(column: sa.Column[Any], number: int) -> object:
    if column.foreign_keys:
        return f"{number}" * 8
    match column.type:
        case sa.Boolean():
            return True
        case sa.Integer():
            return number
        case sa.Float() | sa.Numeric():
            return number + 0.5
        case sa.Text():
            return "{}"
        case _:
            return (f"{number}" * 8)[: getattr(column.type, "length", None) or 8]


def fill(connection: sa.Connection) -> dict[str, list[tuple[object, ...]]]:
    """What is in each table then."""
    there = sa.MetaData()
    there.reflect(connection)
    rows = {}
    for table in there.sorted_tables:
        if table.name == "alembic_version":
            continue
        connection.execute(sa.delete(table))
        new = [{column.name: value(column, number) for column in table.columns} for number in range(1, ROWS + 1)]
        connection.execute(sa.insert(table), new)
        rows[table.name] = [tuple(row.values()) for row in new]
    return rows


@pytest.mark.parametrize("revision", REVISIONS)
async def test_rows_of_every_schema_come_along(url: str, revision: str) -> None:
    engine = sa.ext.asyncio.create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.upgrade(alembic_config(plain), revision))
        before = await connection.run_sync(fill)
    database = Database(url)
    await database.open()
    async with database.reading() as connection:
        lost = await connection.run_sync(lambda plain: set(before) - set(sa.inspect(plain).get_table_names()))
        for name in before.keys() - lost:
            count = sa.select(sa.func.count()).select_from(metadata.tables[name])
            assert (await connection.execute(count)).scalar_one() == ROWS, name
        differences = await connection.run_sync(
            lambda plain: compare_metadata(MigrationContext.configure(plain), metadata)
        )
    wrong = [] if revision > FIRST_BOARDS else [said async for said in proof.differences(database)]
    await database.close()
    await engine.dispose()
    assert (lost - REPLACED, differences) == (set(), [])
    assert wrong == []
