"""Credit in the database: lines that only grow in number, and their sums, which a leaderboard reads.

A commit whose answer was lost is made again, and may then hold other work: its lines take the place of those before.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.ids import RunId, WorkerId
from legion_server.domain.credit import Account, Credit
from legion_server.store import tables as t

Insert = Callable[[sa.Table], sqlite.Insert | postgresql.Insert]


async def write(connection: AsyncConnection, insert: Insert, credits_: Sequence[Credit]) -> None:
    """Lines of one round, and what they change of the sums."""
    run_id, number = credits_[0].run_id, credits_[0].round
    lines = t.credit_lines.c
    of_round = sa.and_(lines.run_id == run_id, lines.round == number)
    before = (await connection.execute(sa.select(lines.worker_id, lines.tokens).where(of_round))).all()
    await connection.execute(sa.delete(t.credit_lines).where(of_round))
    await connection.execute(insert(t.credit_lines), [_row(one) | {"round": number} for one in credits_])
    taken = [_row(Credit(run_id, number, row.worker_id, -row.tokens)) for row in before]
    sums = insert(t.credit_sums)
    added = sums.on_conflict_do_update(
        index_elements=["run_id", "worker_id"], set_={"tokens": t.credit_sums.c.tokens + sums.excluded.tokens}
    )
    await connection.execute(added, [*taken, *map(_row, credits_)])


async def account(connection: AsyncConnection, run_id: RunId, worker: WorkerId) -> Account:
    sums = t.credit_sums.c
    mine = sa.and_(sums.run_id == run_id, sums.worker_id == worker)
    tokens = (await connection.execute(sa.select(sums.tokens).where(mine))).scalar() or 0
    others = sa.select(sa.func.count()).where(sums.run_id == run_id)
    accounts = (await connection.execute(others.where(sums.tokens > 0))).scalar() or 0
    if not tokens:
        return Account(accounts=accounts)
    better = (await connection.execute(others.where(sums.tokens > tokens))).scalar() or 0
    return Account(tokens, better + 1, accounts)


def _row(credit: Credit) -> dict[str, object]:
    return {"run_id": credit.run_id, "worker_id": credit.worker_id, "tokens": credit.tokens}
