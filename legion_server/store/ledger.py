"""Credit in the database: lines that only grow in number, and the sums that boards read."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.ids import RunId, WorkerId
from legion_server.domain.credit import RoundCredit
from legion_server.store import attribution
from legion_server.store import tables as t
from legion_server.store.attribution import Line
from legion_server.store.database import Database


async def write(database: Database, connection: AsyncConnection, credit: RoundCredit) -> None:
    """A round's lines, and what they change of the sums.

    A commit whose answer was lost is made again, and may then hold other work or none: its lines take the place of
    those before.
    """
    moment = await attribution.next_moment(database, connection)
    c = t.credit_lines.c
    of_round = sa.and_(c.run_id == credit.run_id, c.round == credit.round)
    before = (await connection.execute(sa.select(t.credit_lines).where(of_round))).all()
    if before:
        await connection.execute(sa.delete(t.credit_lines).where(of_round))
        taken = [Line(credit.run_id, row.worker_id, -row.tokens, -row.mflop, row.at, row.moment) for row in before]
        await attribution.credit(database, connection, taken)
    lines = [
        Line(credit.run_id, worker, tokens, credit.mflop_of(tokens), credit.at, moment)
        for worker, tokens in credit.tokens.items()
    ]
    if lines:
        rows = [
            {"run_id": line.run_id, "round": credit.round, "worker_id": line.worker_id, "tokens": line.tokens}
            | {"mflop": line.mflop, "at": line.at, "moment": moment}
            for line in lines
        ]
        await connection.execute(database.insert(t.credit_lines), rows)
        await number(database, connection, [line.worker_id for line in lines])
        await attribution.credit(database, connection, lines)


async def number(database: Database, connection: AsyncConnection, workers: list[WorkerId]) -> None:
    """Give devices that have none their public number, by which boards call them."""
    rows = [{"worker_id": worker} for worker in workers]
    await connection.execute(database.insert(t.devices).on_conflict_do_nothing(index_elements=["worker_id"]), rows)


async def credited(connection: AsyncConnection, run_id: RunId) -> dict[WorkerId, int]:
    """Tokens of all devices that have any in a run."""
    c = t.standings.c
    query = sa.select(c.account, c.tokens).where(c.board == "devices", c.scope == run_id, c.tokens > 0)
    return {WorkerId(row.account): row.tokens for row in await connection.execute(query)}
