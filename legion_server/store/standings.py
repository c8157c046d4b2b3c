"""The boards: who has contributed how much, read from sums that every committed round keeps.

A board is read by cursor: the rows after one row, in the order of the sums, however the board has moved meanwhile.
"""

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion_server.domain.standing import day_of
from legion_server.store import tables as t
from legion_server.store.attribution import ALL_RUNS, Board
from legion_server.store.database import Database

Order = Literal["mflop", "recent"]
Place = tuple[float, str]  # of a row: what it is ordered by, and its account
MOST_DAYS = 366


@dataclass(frozen=True, slots=True)
class Row:
    """Of a board. `name`: of a volunteer or a team; of a device its volunteer's, None if nobody's or not listed."""

    rank: int  # from 1; equal sums share one
    account: str
    name: str | None
    number: int | None  # of a device
    tokens: int
    mflop: int
    recent: float  # see `domain.standing`

    def place(self, order: Order) -> Place:
        return (self.mflop if order == "mflop" else self.recent, self.account)


@dataclass(frozen=True, slots=True)
class Totals:
    accounts: int
    mflop: int


class StandingStore:
    """Reads only. `scope`: a run's id, or ALL_RUNS."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        board: Board,
        scope: str = ALL_RUNS,
        order: Order = "mflop",
        *,
        after: Place | None = None,
        limit: int = 50,
    ) -> list[Row]:
        """The next `limit` rows, best first."""
        s = t.standings.c
        key = s[order]
        where = [s.board == board, s.scope == scope, s.shown.is_(True), key > 0]
        if after is not None:
            where.append(sa.tuple_(key, s.account) < sa.tuple_(sa.literal(after[0], key.type), sa.literal(after[1])))
        query = _named(board).where(*where).order_by(key.desc(), s.account.desc()).limit(limit)
        async with self._database.reading() as connection:
            found = (await connection.execute(query)).all()
            if not found:
                return []
            ahead = await _ahead(connection, board, scope, order, getattr(found[0], order))
            before = ahead + await _tied_before(connection, board, scope, order, found[0])
        ranks = [ahead + 1]
        for i, (row, last) in enumerate(zip(found[1:], found, strict=False), start=1):
            ranks.append(ranks[-1] if getattr(row, order) == getattr(last, order) else before + i + 1)
        return [_row(row, rank) for row, rank in zip(found, ranks, strict=True)]

    async def one(self, board: Board, account: str, scope: str = ALL_RUNS, order: Order = "mflop") -> Row | None:
        """An account's own row, with its rank among those that are shown; None before it has credit."""
        s = t.standings.c
        query = _named(board).where(s.board == board, s.scope == scope, s.account == account)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
            if row is None or row.mflop <= 0:
                return None
            return _row(row, 1 + await _ahead(connection, board, scope, order, getattr(row, order)))

    async def search(self, board: Literal["volunteers", "teams"], beginning: str, limit: int = 20) -> list[Row]:
        """Those whose folded name begins so, by name; over all runs."""
        s = t.standings.c
        key = t.volunteers.c.nickname_key if board == "volunteers" else t.teams.c.name_key
        # A range, as LIKE would not use the index: from the beginning to the same with the last character there is.
        matching = sa.and_(key >= beginning, key < beginning + "\U0010ffff")
        query = _named(board).where(s.board == board, s.scope == ALL_RUNS, s.shown.is_(True), matching)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.order_by(key).limit(limit))).all()
            ranks = {row.mflop: 1 + await _ahead(connection, board, ALL_RUNS, "mflop", row.mflop) for row in rows}
        return [_row(row, ranks[row.mflop]) for row in rows]

    async def days(self, board: Board, account: str, now: float) -> dict[int, int]:
        """MFLOP by day (since 1970, UTC) of the last year; days without any are left out."""
        c = t.credit_days.c
        since = day_of(now) - MOST_DAYS + 1
        query = sa.select(c.day, c.mflop).where(c.board == board, c.account == account, c.day >= since, c.mflop > 0)
        async with self._database.reading() as connection:
            return {row.day: row.mflop for row in await connection.execute(query.order_by(c.day))}

    async def runs_of(self, board: Board, account: str) -> dict[str, int]:
        """MFLOP by run."""
        s = t.standings.c
        query = sa.select(s.scope, s.mflop).where(s.board == board, s.account == account, s.scope != ALL_RUNS)
        async with self._database.reading() as connection:
            return {row.scope: row.mflop for row in await connection.execute(query.order_by(s.scope))}

    async def totals(self, board: Board, scope: str = ALL_RUNS) -> Totals:
        """Over everybody with credit, shown or not."""
        s = t.standings.c
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(s.mflop), 0))
        query = query.where(s.board == board, s.scope == scope, s.mflop > 0)
        async with self._database.reading() as connection:
            count, mflop = (await connection.execute(query)).one()
        return Totals(count, int(mflop))


def _named(board: Board) -> sa.Select[Any]:
    s = t.standings.c
    sums = (s.account, s.tokens, s.mflop, s.recent)
    if board == "volunteers":
        people = t.volunteers.c
        query = sa.select(*sums, people.nickname.label("name"), sa.null().label("number"))
        return query.join(t.volunteers, people.volunteer_id == s.account)
    if board == "teams":
        query = sa.select(*sums, t.teams.c.name, sa.null().label("number"))
        return query.join(t.teams, t.teams.c.team_id == s.account)
    links, people = t.device_links.c, t.volunteers.c
    return (
        sa.select(*sums, people.nickname.label("name"), t.devices.c.number)
        .select_from(t.standings)
        .outerjoin(t.devices, t.devices.c.worker_id == s.account)
        .outerjoin(t.device_links, sa.and_(links.worker_id == s.account, links.until.is_(None)))
        .outerjoin(t.volunteers, sa.and_(people.volunteer_id == links.volunteer_id, people.listed.is_(True)))
    )


async def _ahead(connection: AsyncConnection, board: Board, scope: str, order: Order, value: float) -> int:
    """How many shown accounts have more."""
    s = t.standings.c
    key = s[order]
    query = sa.select(sa.func.count()).where(
        s.board == board, s.scope == scope, s.shown.is_(True), key > sa.literal(value, key.type)
    )
    return int((await connection.execute(query)).scalar_one())


async def _tied_before(connection: AsyncConnection, board: Board, scope: str, order: Order, row: Any) -> int:
    """How many with the same sum come before the row on its board."""
    s = t.standings.c
    tied = s[order] == sa.literal(getattr(row, order), s[order].type)
    query = sa.select(sa.func.count()).where(
        s.board == board, s.scope == scope, s.shown.is_(True), tied, s.account > row.account
    )
    return int((await connection.execute(query)).scalar_one())


def _row(row: Any, rank: int) -> Row:
    return Row(rank, row.account, row.name, row.number, row.tokens, row.mflop, row.recent)
