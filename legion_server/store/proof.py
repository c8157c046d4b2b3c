"""The proof that boards are sums of the ledger: all of it is added up again, and compared."""

import math
from collections.abc import AsyncIterator, Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion_server.domain.standing import EPOCH_S, recent_of
from legion_server.store import tables as t
from legion_server.store.attribution import Line, Owner, Sums
from legion_server.store.database import Database

AT_ONCE = 10_000  # rows
CLOSE = 1e-9  # relative: floats, added in another order
Period = tuple[float, float, str]  # since, until (moments of the ledger), what held


async def differences(database: Database) -> AsyncIterator[str]:
    """Each sum that is not what the lines of the ledger say, in words; none if all are."""
    async with database.reading() as connection:
        proven = await _added_up(connection)
        async for said in _differing_standings(connection, proven):
            yield said
        async for said in _differing_days(connection, proven):
            yield said


async def _added_up(connection: AsyncConnection) -> Sums:
    c = t.credit_lines.c
    query = sa.select(t.credit_lines).order_by(c.moment)
    sums = Sums()
    result = await connection.stream(query.execution_options(yield_per=AT_ONCE))
    owned = await _Owned.read(connection)
    async for row in result:
        line = Line(row.run_id, row.worker_id, row.tokens, row.mflop, row.at, row.moment)
        sums.add("devices", line.worker_id, line)
        owner = owned.of(line)
        if owner is not None:
            sums.add_of(owner, line)
    return sums


class _Owned:
    """Who had which device when, and was in which team."""

    def __init__(self) -> None:
        self.links: dict[str, list[Period]] = {}
        self.members: dict[str, list[Period]] = {}

    @classmethod
    async def read(cls, connection: AsyncConnection) -> "_Owned":
        owned = cls()
        for table, key, value, into in (
            (t.device_links, "worker_id", "volunteer_id", owned.links),
            (t.team_members, "volunteer_id", "team_id", owned.members),
        ):
            for row in (await connection.execute(sa.select(table))).mappings():
                until = math.inf if row["until"] is None else row["until"]
                into.setdefault(row[key], []).append((row["since"], until, row[value]))
        return owned

    def of(self, line: Line) -> Owner | None:
        volunteer = _at(self.links.get(line.worker_id, ()), line.moment)
        if volunteer is None:
            return None
        return Owner(volunteer, True, _at(self.members.get(volunteer, ()), line.moment))


def _at(periods: Iterable[Period], moment: int) -> str | None:
    return next((who for since, until, who in periods if since <= moment < until), None)


async def _differing_standings(connection: AsyncConnection, proven: Sums) -> AsyncIterator[str]:
    left = dict(proven.standings)
    result = await connection.stream(sa.select(t.standings).execution_options(yield_per=AT_ONCE))
    async for row in result:
        tokens, mflop, recent = left.pop((row.board, row.scope, row.account), [0, 0, 0.0])
        where = f"{row.board} {row.account} in {row.scope or 'all runs'}"
        if (row.tokens, row.mflop) != (tokens, mflop):
            yield f"{where}: the board says {row.tokens} tokens, {row.mflop} MFLOP; the ledger {tokens}, {mflop}"
        elif not math.isclose(row.recent, recent, rel_tol=CLOSE, abs_tol=CLOSE * recent_of(1, EPOCH_S)):
            yield f"{where}: the recent average is not what the ledger says"
    for (board, scope, account), (tokens, mflop, _) in left.items():
        if mflop or tokens:
            yield f"{board} {account} in {scope or 'all runs'}: missing on the board; the ledger says {mflop} MFLOP"


async def _differing_days(connection: AsyncConnection, proven: Sums) -> AsyncIterator[str]:
    left = dict(proven.days)
    result = await connection.stream(sa.select(t.credit_days).execution_options(yield_per=AT_ONCE))
    async for row in result:
        mflop = left.pop((row.board, row.account, row.day), 0)
        if row.mflop != mflop:
            yield f"{row.board} {row.account} on day {row.day}: {row.mflop} MFLOP; the ledger says {mflop}"
    for (board, account, day), mflop in left.items():
        if mflop:
            yield f"{board} {account} on day {day}: missing; the ledger says {mflop} MFLOP"
