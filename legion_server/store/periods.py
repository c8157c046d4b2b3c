"""Periods of the ledger in which a device was somebody's, a volunteer was in a team. They end, and never overlap."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion_server.store import tables as t


async def end_periods(connection: AsyncConnection, table: sa.Table, which: sa.ColumnElement[bool], moment: int) -> None:
    """Those that have not ended do now."""
    await connection.execute(sa.update(table).where(which, table.c.until.is_(None)).values(until=moment))


async def succeed(connection: AsyncConnection, volunteer_id: str) -> None:
    """Teams founded by one who is no member any more pass to the oldest member, if there is one."""
    c = t.team_members.c
    present = sa.select(c.team_id).where(c.volunteer_id == volunteer_id, c.until.is_(None))
    founded = sa.select(t.teams.c.team_id).where(t.teams.c.founder == volunteer_id, t.teams.c.team_id.not_in(present))
    for team_id in (await connection.execute(founded)).scalars().all():
        oldest = sa.select(c.volunteer_id).where(c.team_id == team_id, c.until.is_(None)).order_by(c.since).limit(1)
        passed = sa.update(t.teams).where(t.teams.c.team_id == team_id).values(founder=oldest.scalar_subquery())
        await connection.execute(passed)
