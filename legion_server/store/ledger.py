"""Credit in the database: lines that only grow in number, and their sums, which a leaderboard reads."""

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.ids import RunId, WorkerId
from legion_server.domain.credit import RoundCredit
from legion_server.store import tables as t

Insert = Callable[[sa.Table], sqlite.Insert | postgresql.Insert]


async def write(connection: AsyncConnection, insert: Insert, credit: RoundCredit) -> None:
    """A round's lines, and what they change of the sums.

    A commit whose answer was lost is made again, and may then hold other work or none: its lines take the place of
    those before.
    """
    lines = t.credit_lines.c
    of_round = sa.and_(lines.run_id == credit.run_id, lines.round == credit.round)
    before = (await connection.execute(sa.select(lines.worker_id, lines.tokens).where(of_round))).all()
    if before:
        await connection.execute(sa.delete(t.credit_lines).where(of_round))
        await _add(connection, insert, credit.run_id, {row.worker_id: -row.tokens for row in before})
    if credit.tokens:
        rows = _rows(credit.run_id, credit.tokens)
        await connection.execute(insert(t.credit_lines), [row | {"round": credit.round} for row in rows])
        await _add(connection, insert, credit.run_id, credit.tokens)


async def credited(connection: AsyncConnection, run_id: RunId) -> dict[WorkerId, int]:
    sums = t.credit_sums.c
    query = sa.select(sums.worker_id, sums.tokens).where(sums.run_id == run_id, sums.tokens > 0)
    return {WorkerId(row.worker_id): row.tokens for row in await connection.execute(query)}


async def _add(connection: AsyncConnection, insert: Insert, run_id: RunId, tokens: Mapping[WorkerId, int]) -> None:
    sums = insert(t.credit_sums)
    grown = {"tokens": t.credit_sums.c.tokens + sums.excluded.tokens}
    added = sums.on_conflict_do_update(index_elements=["run_id", "worker_id"], set_=grown)
    await connection.execute(added, _rows(run_id, tokens))


def _rows(run_id: RunId, tokens: Mapping[WorkerId, int]) -> list[dict[str, object]]:
    return [{"run_id": run_id, "worker_id": worker, "tokens": amount} for worker, amount in tokens.items()]
