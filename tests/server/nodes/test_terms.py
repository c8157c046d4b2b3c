"""Terms of leaders, on a real PostgreSQL: of any two that overlap, the database lets the newer one write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import sqlalchemy as sa

from legion.errors import LegionError, NoLeader
from legion_server.store import leadership as module
from legion_server.store import tables as t
from legion_server.store.database import Database
from legion_server.store.leadership import LEASE_S, Leadership, Term, client_of, no_writes


class Steady:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def candidate(url: str, server: str, steady: Steady | None = None) -> AsyncIterator[Leadership]:
    database = Database(url, client=client_of(server))
    leadership = Leadership(database, server, "host", 1, steady or Steady())
    try:
        yield leadership
    finally:
        await leadership.step_down()
        await database.close()


@pytest.fixture
async def url(database_url: str) -> str:
    database = Database(database_url)
    await database.open()
    await database.close()
    return database_url


async def write(database: Database, hash_: str) -> None:
    async with database.writing() as connection:
        await connection.execute(sa.insert(t.invites).values(token_sha256=hash_, uses_left=1, expires_at=1.0))


async def written(url: str) -> set[str]:
    database = Database(url)
    async with database.reading() as connection:
        found = set((await connection.execute(sa.select(t.invites.c.token_sha256))).scalars())
    await database.close()
    return found


async def won(leadership: Leadership) -> Term:
    """A session that was closed, or ended, gives its lock back a moment later."""
    async with asyncio.timeout(20):
        while (term := await leadership.try_to_lead()) is None:  # noqa: ASYNC110 - the database tells nobody when a lock is free
            await asyncio.sleep(0)
    return term


async def test_one_leads_and_the_next_has_the_next_term(url: str) -> None:
    async with candidate(url, "a") as a, candidate(url, "b") as b:
        first = await a.try_to_lead()
        assert first is not None
        assert first.number == 1
        assert [await b.try_to_lead() for _ in range(3)] == [None] * 3
        assert b.known is not None
        assert (b.known.server, b.known.is_heard) == ("a", True)
        await a.step_down()
        assert (await won(b)).number == 2
        with pytest.raises(NoLeader, match="term 1 is over"):
            await a.renew(first)


async def test_what_a_former_leader_writes_is_refused(url: str) -> None:
    async with candidate(url, "a") as a, candidate(url, "b") as b:
        former = await won(a)
        databases = [Database(url, guard=former.guard)]
        await write(databases[0], "1")
        await a.step_down()
        newer = await won(b)
        databases += [Database(url, guard=newer.guard), Database(url, guard=no_writes)]
        for database, name in zip(databases, "234", strict=True):
            if database is databases[1]:
                await write(database, name)
                continue
            with pytest.raises(NoLeader):
                await write(database, name)
        assert former.is_over
        assert not former.holds
        assert await written(url) == {"1", "3"}
        for database in databases:
            await database.close()


async def test_a_write_under_way_is_in_before_the_next_term_or_ended(url: str) -> None:
    """The former leader hangs in the middle of a transaction, having lost the lock."""
    async with candidate(url, "a") as a, candidate(url, "b") as b, AsyncExitStack() as stack:
        term = await won(a)
        database = Database(url, client=client_of("a"), guard=term.guard)
        connection = await stack.enter_async_context(_ignoring(database))
        await connection.execute(sa.insert(t.invites).values(token_sha256="x", uses_left=1, expires_at=1.0))
        await a.step_down()
        assert (await won(b)).number == 2
        assert await written(url) == set()
        with pytest.raises(LegionError):
            async with database.mapped():
                await connection.commit()
        assert await written(url) == set()
        await database.close()


@asynccontextmanager
async def _ignoring(database: Database) -> AsyncIterator[sa.ext.asyncio.AsyncConnection]:
    """A transaction whose end is the test's own affair."""
    try:
        async with database.writing() as connection:
            yield connection
    except LegionError:
        pass


async def test_a_leader_that_is_silent_too_long_loses_its_sessions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAKEOVER_S", 0.0)
    async with candidate(url, "a") as a, candidate(url, "b") as b:
        term = await won(a)
        assert (await won(b)).number == 2
        with pytest.raises(LegionError):
            await a.renew(term)


async def test_a_leader_that_could_not_renew_takes_itself_for_none(url: str) -> None:
    steady = Steady()
    async with candidate(url, "a", steady) as a:
        term = await won(a)
        steady.now = LEASE_S - 0.25
        assert term.holds
        await a.renew(term)
        steady.now += LEASE_S - 0.25
        assert term.holds
        steady.now += 0.25
        assert not term.holds
        await a.renew(term)  # nobody else came
        assert term.holds
