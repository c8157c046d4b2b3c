"""Whose a line of the ledger is: its device's always, a volunteer's and a team's by what held when it was written.

Invariant: standings and days are the sums of the lines, attributed so; `store.proof` recomputes them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.ids import RunId, WorkerId
from legion_server.domain.standing import day_of, recent_of
from legion_server.store import tables as t
from legion_server.store.database import Database

Board = Literal["volunteers", "teams", "devices"]
ALL_RUNS = ""  # the scope of sums over all runs
AT_ONCE = 1000  # ids in a query
THE_LEDGER = 1  # of which there is one


@dataclass(frozen=True, slots=True)
class Line:
    """Of the ledger; `at` in s since 1970; `moment`: see `next_moment`. Taken back: negative tokens and mflop."""

    run_id: RunId
    worker_id: WorkerId
    tokens: int
    mflop: int
    at: float
    moment: int


@dataclass(frozen=True, slots=True)
class Owner:
    volunteer_id: str
    listed: bool
    team_id: str | None


@dataclass(slots=True)
class Sums:
    """What lines change of standings and days, by their keys."""

    standings: dict[tuple[Board, str, str], list[float]] = field(default_factory=dict)  # tokens, mflop, recent
    days: dict[tuple[Board, str, int], int] = field(default_factory=dict)  # mflop
    hidden: set[tuple[Board, str]] = field(default_factory=set)  # accounts that are not shown

    def add(self, board: Board, account: str, line: Line) -> None:
        recent = recent_of(line.mflop, line.at)
        for scope in (line.run_id, ALL_RUNS):
            sums = self.standings.setdefault((board, scope, account), [0, 0, 0.0])
            sums[0] += line.tokens
            sums[1] += line.mflop
            sums[2] += recent
        key = (board, account, day_of(line.at))
        self.days[key] = self.days.get(key, 0) + line.mflop

    def add_of(self, owner: Owner, line: Line) -> None:
        self.add("volunteers", owner.volunteer_id, line)
        if not owner.listed:
            self.hidden.add(("volunteers", owner.volunteer_id))
        if owner.team_id is not None:
            self.add("teams", owner.team_id, line)


async def next_moment(database: Database, connection: AsyncConnection) -> int:
    """The ledger's time, which only goes forward, one with every change of it or of who owns what.

    Nobody else changes either until the transaction's end: the row of the moment is locked.
    """
    begun = database.insert(t.ledger_moments).values(ledger=THE_LEDGER, moment=1)
    another = begun.on_conflict_do_update(index_elements=["ledger"], set_={"moment": t.ledger_moments.c.moment + 1})
    return int((await connection.execute(another.returning(t.ledger_moments.c.moment))).scalar_one())


async def credit(database: Database, connection: AsyncConnection, lines: Sequence[Line]) -> None:
    """What new lines, or those taken back, add to everybody's sums. All are of one moment."""
    if not lines:
        return
    owners = await owners_of(connection, [line.worker_id for line in lines], lines[0].moment)
    sums = Sums()
    for line in lines:
        sums.add("devices", line.worker_id, line)
        owner = owners.get(line.worker_id)
        if owner is not None:
            sums.add_of(owner, line)
            if not owner.listed:
                sums.hidden.add(("devices", line.worker_id))
    await write(database, connection, sums)


async def owners_of(connection: AsyncConnection, workers: Sequence[str], moment: int) -> dict[str, Owner]:
    """Those who had a device then, by worker id."""
    links, members, people = t.device_links.c, t.team_members.c, t.volunteers.c
    held = sa.and_(links.since <= moment, sa.or_(links.until.is_(None), links.until > moment))
    belonged = sa.and_(
        members.volunteer_id == links.volunteer_id,
        members.since <= moment,
        sa.or_(members.until.is_(None), members.until > moment),
    )
    query = (
        sa.select(links.worker_id, links.volunteer_id, people.listed, members.team_id)
        .join(t.volunteers, people.volunteer_id == links.volunteer_id)
        .outerjoin(t.team_members, belonged)
        .where(held)
    )
    found: dict[str, Owner] = {}
    for first in range(0, len(workers), AT_ONCE):
        some = query.where(links.worker_id.in_(workers[first : first + AT_ONCE]))
        for row in await connection.execute(some):
            found[row.worker_id] = Owner(row.volunteer_id, row.listed, row.team_id)
    return found


async def write(database: Database, connection: AsyncConnection, sums: Sums) -> None:
    await _grow(
        database,
        connection,
        t.standings,
        (
            {"board": board, "scope": scope, "account": account, "shown": (board, account) not in sums.hidden}
            | {"tokens": int(tokens), "mflop": int(mflop), "recent": recent}
            for (board, scope, account), (tokens, mflop, recent) in sums.standings.items()
        ),
        ("tokens", "mflop", "recent"),
    )
    days = (
        {"board": board, "account": account, "day": day, "mflop": mflop}
        for (board, account, day), mflop in sums.days.items()
    )
    await _grow(database, connection, t.credit_days, days, ("mflop",))


async def _grow(
    database: Database,
    connection: AsyncConnection,
    table: sa.Table,
    rows: Iterable[dict[str, Any]],
    summed: tuple[str, ...],
) -> None:
    """Add to the rows that are there, and begin those that are not. In the order of keys, against deadlocks."""
    keys = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in keys))
    if ordered:
        added = database.insert(table)
        grown = {name: table.c[name] + added.excluded[name] for name in summed}
        await connection.execute(added.on_conflict_do_update(index_elements=keys, set_=grown), ordered)
