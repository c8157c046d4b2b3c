"""PostgreSQL's LISTEN and NOTIFY: servers that do not lead hear that something was saved."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion_server.store.database import Database

CHANNEL = "legion_saved"
Wait = Callable[[float], Awaitable[bool]]


async def announce(database: Database, connection: AsyncConnection) -> None:
    """Part of a transaction: it is heard when that is committed, and not at all if it is not."""
    if not database.is_sqlite:
        await connection.execute(sa.text(f"NOTIFY {CHANNEL}"))


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Wait]:
    """A call that waits, at most so many seconds, and says whether anything was saved meanwhile."""
    async with database.session() as connection:
        await connection.execute(sa.text(f"LISTEN {CHANNEL}"))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None

        async def heard(within_s: float) -> bool:
            async with database.mapped():
                return [notice async for notice in driver.notifies(timeout=within_s, stop_after=1)] != []

        yield heard
