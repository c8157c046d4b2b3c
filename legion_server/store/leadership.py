"""Which of several servers over one PostgreSQL decides: one at a time, whatever stops, hangs or wakes up again.

A leader holds an advisory lock of its session, and renews its row once a second. A process that dies loses the lock
with its connection. One that hangs keeps it: whoever waits then has PostgreSQL end the sessions of the silent leader,
all of them, and gets the lock.

Invariant: every transaction that writes holds the row of its term (FOR KEY SHARE), and to begin a term is to replace
that row's key. So a write is either in the database before the next leader loads, or it is refused: also that of a
leader which was stopped for an hour and does not know yet that it is none any more.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.errors import NoLeader
from legion_server.store import tables as t
from legion_server.store.database import Database

logger = logging.getLogger(__name__)

LEASE_S = 4.0  # a leader that could not renew for so long takes itself for none
TAKEOVER_S = 6.0  # others wait that long before they end its sessions
LOCK_CLASS = 0x4C47  # beside the schema's name in the lock's key: several runs may share a PostgreSQL
SETTING_UP, LEADING = 0, 1
# Of the database: servers' clocks may differ.
NOW: sa.ColumnElement[float] = sa.literal_column("EXTRACT(EPOCH FROM clock_timestamp())::float8", sa.Double)
OF_CLIENT = "application_name = :client AND datname = current_database() AND usename = current_user"
END_SESSIONS = sa.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OF_CLIENT}")
END_WRITES = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    f"WHERE {OF_CLIENT} AND relation = 'leadership'::regclass AND mode = 'RowShareLock'"
)


@dataclass(frozen=True, slots=True)
class Leader:
    """As its row says."""

    term: int
    server: str
    host: str
    port: int
    silent_s: float

    @property
    def is_heard(self) -> bool:
        return self.silent_s <= TAKEOVER_S


class Term:
    """The time from winning the lock to losing it. `steady` only goes forward, also while the process is stopped."""

    def __init__(self, number: int, steady: Callable[[], float], renewed: float) -> None:
        self.number = number
        self.is_over = False
        self._steady = steady
        self._renewed = renewed

    @property
    def holds(self) -> bool:
        """Whether nobody else can lead yet; costs no look into the database."""
        return not self.is_over and self._steady() - self._renewed < LEASE_S

    def renewed(self, asked_at: float) -> None:
        self._renewed = asked_at

    async def guard(self, connection: AsyncConnection) -> None:
        """NoLeader for a transaction in a term that is over; while it lasts, no other term begins."""
        c = t.leadership.c
        row = sa.select(c.term).where(c.term == self.number).with_for_update(read=True, key_share=True)
        if (await connection.execute(row)).first() is None:
            self.is_over = True
            raise NoLeader("this server no longer leads: another one has taken over")


async def no_writes(_: AsyncConnection) -> None:
    """The guard of a server that does not lead."""
    raise NoLeader("this server does not lead, and writes nothing")


class Leadership:
    """One server's part in it, over one session of its own; `step_down` before another try after any error."""

    def __init__(self, database: Database, server: str, host: str, port: int, steady: Callable[[], float]) -> None:
        self._database = database
        self._server, self._host, self._port = server, host, port
        self._steady = steady
        self.known: Leader | None = None  # as it was at the last try to lead
        self._session: AbstractAsyncContextManager[AsyncConnection] | None = None
        self._connection: AsyncConnection | None = None

    async def try_to_lead(self) -> Term | None:
        """A term of ours, or None while another holds the lock. A leader that is silent too long loses it here.

        Unavailable.
        """
        async with self._connected() as connection:
            former = self.known = await _leader(connection)
            if not await _try_lock(connection, LEADING):
                if former is not None and not former.is_heard:
                    logger.warning("silent leader ended server=%s silent_s=%.1f", former.server, former.silent_s)
                    await connection.execute(END_SESSIONS, {"client": client_of(former.server)})
                return None
            if former is not None and former.server != self._server:
                # It has lost the lock, and what it has begun to write would hold up the next term.
                await connection.execute(END_WRITES, {"client": client_of(former.server)})
            asked_at = self._steady()
            ours = {"server": self._server, "host": self._host, "port": self._port, "renewed_at": NOW}
            began = sa.update(t.leadership).values(term=t.leadership.c.term + 1, **ours).returning(t.leadership.c.term)
            term = Term((await connection.execute(began)).scalar_one(), self._steady, asked_at)
        logger.info("server leads term=%d server=%s", term.number, self._server)
        return term

    async def renew(self, term: Term) -> None:
        """NoLeader when the term is over; Unavailable when nobody can say."""
        asked_at = self._steady()
        c = t.leadership.c
        again = sa.update(t.leadership).where(c.term == term.number).values(renewed_at=NOW).returning(c.term)
        async with self._connected() as connection:
            if (await connection.execute(again)).first() is None:
                raise NoLeader(f"term {term.number} is over")
        term.renewed(asked_at)

    async def step_down(self) -> None:
        """Give up the session, and with it the lock if it is ours: the next leader need not wait."""
        session, self._session, self._connection = self._session, None, None
        if session is not None:
            await session.__aexit__(None, None, None)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.mapped():
            if self._connection is None:
                session = self._database.session()
                self._connection = await session.__aenter__()
                self._session = session
            yield self._connection


@asynccontextmanager
async def setting_up(database: Database) -> AsyncIterator[None]:
    """One server at a time: to bring the schema up to date, and to make the data folder's keys."""
    async with database.session() as connection:
        await connection.execute(sa.text(f"SELECT pg_advisory_lock({_key(SETTING_UP)})"))
        yield


def client_of(server: str) -> str:
    """What PostgreSQL knows a server's connections by."""
    return f"legion-{server}"


async def _leader(connection: AsyncConnection) -> Leader | None:
    c = t.leadership.c
    query = sa.select(c.term, c.server, c.host, c.port, (NOW - c.renewed_at).label("silent_s"))
    row = (await connection.execute(query)).first()
    return Leader(*row) if row is not None and row.term > 0 else None


async def _try_lock(connection: AsyncConnection, which: int) -> bool:
    return bool((await connection.execute(sa.text(f"SELECT pg_try_advisory_lock({_key(which)})"))).scalar_one())


def _key(which: int) -> str:
    return f"{LOCK_CLASS + which}, hashtext(current_schema())"
