"""For the statistics export: volunteers who agreed to be in it, their devices, and teams that have any of them.

Read in batches, each a transaction of its own: a long one would keep SQLite's log from being folded back.
"""

from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa

from legion_server.store import tables as t
from legion_server.store.attribution import ALL_RUNS, Board
from legion_server.store.database import Database

BATCH = 2000  # rows

Fact = dict[str, Any]


class StatisticsStore:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batches(self, board: Board) -> AsyncIterator[list[Fact]]:
        """Rows in the order of their keys, with `tokens`, `mflop` and `recent` as `domain.standing` has it."""
        query, key = {"volunteers": _volunteers, "teams": _teams, "devices": _devices}[board]()
        after: Any = None
        while True:
            more = query if after is None else query.where(key > after)
            async with self._database.reading() as connection:
                rows = (await connection.execute(more.order_by(key).limit(BATCH))).mappings().all()
            if rows:
                yield [dict(row) for row in rows]
            if len(rows) < BATCH:
                return
            after = rows[-1]["key"]


def _volunteers() -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    v, m = t.volunteers.c, t.team_members.c
    query = (
        sa.select(v.volunteer_id.label("key"), v.nickname, v.created_at, m.team_id, *_sums())
        .select_from(t.volunteers)
        .outerjoin(t.team_members, sa.and_(m.volunteer_id == v.volunteer_id, m.until.is_(None)))
        .outerjoin(t.standings, _standing("volunteers", v.volunteer_id))
        .where(v.exported.is_(True), v.nickname.is_not(None))
    )
    return query, v.volunteer_id


def _teams() -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    c, m, v = t.teams.c, t.team_members.c, t.volunteers.c
    here = sa.and_(m.team_id == c.team_id, m.until.is_(None))
    members = sa.select(sa.func.count()).where(here).correlate(t.teams).scalar_subquery()
    agreed = sa.exists().where(here, v.volunteer_id == m.volunteer_id, v.exported.is_(True))
    query = (
        sa.select(c.team_id.label("key"), c.team_id, c.name, c.created_at, members.label("members"), *_sums())
        .select_from(t.teams)
        .outerjoin(t.standings, _standing("teams", c.team_id))
        .where(agreed)
    )
    return query, c.team_id


def _devices() -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    d, held, v = t.devices.c, t.device_links.c, t.volunteers.c
    query = (
        sa.select(d.number.label("key"), d.number.label("device"), v.nickname, *_sums())
        .select_from(t.devices)
        .join(t.device_links, sa.and_(held.worker_id == d.worker_id, held.until.is_(None)))
        .join(t.volunteers, v.volunteer_id == held.volunteer_id)
        .outerjoin(t.standings, _standing("devices", d.worker_id))
        .where(v.exported.is_(True), v.nickname.is_not(None))
    )
    return query, d.number


def _sums() -> tuple[sa.ColumnElement[Any], ...]:
    s = t.standings.c
    return tuple(sa.func.coalesce(column, 0).label(column.name) for column in (s.tokens, s.mflop, s.recent))


def _standing(board: Board, account: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    s = t.standings.c
    return sa.and_(s.board == board, s.scope == ALL_RUNS, s.account == account)
