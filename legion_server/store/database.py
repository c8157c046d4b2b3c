"""The database behind all stores: SQLite in the data folder, or PostgreSQL by URL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from legion.errors import Unavailable, Unusable
from legion_server.store import failures
from legion_server.store.failures import DatabaseDamaged
from legion_server.store.migrate import upgrade

CONNECT_S = 10  # to a PostgreSQL; whole seconds
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BUSY_S = 5.0  # for the one writer that SQLite has at a time
WRITES = "legion_writes"  # execution option of a connection: its transaction will write


Guard = Callable[[AsyncConnection], Awaitable[None]]


class Database:
    """Errors of the disk come out as StorageFailed, those of a database server as Unavailable."""

    def __init__(self, url: str, *, client: str | None = None, guard: Guard | None = None) -> None:
        """Unusable for a URL that names neither an SQLite nor a PostgreSQL database, or a driver that is missing.

        `client`: what PostgreSQL knows our connections by. `guard`: begins every transaction that writes, and may
        refuse it.
        """
        self._engine = _engine(url, {"application_name": client} if client else {})
        self._guard = guard
        self._damage: list[DatabaseDamaged] = []
        self._is_damaged = asyncio.Event()
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "legion_database_transaction_seconds",
            "Transactions, with the wait for a connection and for the one writer of SQLite",
            ["kind"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._errors = Counter("legion_database_errors", "Errors of the database", registry=self.registry)

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    async def open(self) -> None:
        """Bring the schema up to date. DatabaseDamaged when a look at all of an SQLite file finds it so."""
        if self.is_sqlite:
            async with self.reading() as connection:
                found = (await connection.execute(sa.text("PRAGMA quick_check(1)"))).scalar_one()
            if found != "ok":
                raise DatabaseDamaged(f"the database is damaged: {failures.one_line(Exception(found))}")
        async with self.writing() as connection:
            await connection.run_sync(upgrade)

    async def until_damaged(self) -> None:
        """DatabaseDamaged as soon as anything that was read or written finds it so."""
        await self._is_damaged.wait()
        raise self._damage[0]

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """A connection without transactions, for what lasts as long as it does: locks, and listening."""
        async with self.mapped(), self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                yield connection
            finally:
                await connection.invalidate()  # never back into the pool

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that sees one moment, with the driver's errors mapped."""
        async with self._timed("read"), self._engine.connect() as connection:
            if not self.is_sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, saved as a whole at the end of the block or not at all."""
        async with self._timed("write"), self._engine.connect() as connection:
            await connection.execution_options(**{WRITES: True})
            async with connection.begin():
                if self._guard is not None:
                    await self._guard(connection)
                yield connection

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """With ON CONFLICT, which both have."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    async def put(self, connection: AsyncConnection, table: sa.Table, *rows: dict[str, Any]) -> None:
        """Rows with the same columns, each in place of the one with its key."""
        if not rows:
            return
        keys = [column.name for column in table.primary_key]
        statement = self.insert(table)
        rest = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest), list(rows))

    @asynccontextmanager
    async def _timed(self, kind: str) -> AsyncIterator[None]:
        with self._seconds.labels(kind).time():
            async with self.mapped():
                yield

    @asynccontextmanager
    async def mapped(self) -> AsyncIterator[None]:
        """The driver's errors as ours, also for what is done in a `session`."""
        try:
            yield
        except exc.DBAPIError as error:
            self._errors.inc()
            ours = failures.of_driver(error)
            if isinstance(ours, DatabaseDamaged):
                self._damage.append(ours)
                self._is_damaged.set()
            raise ours from error
        except OSError as error:
            self._errors.inc()
            raise Unavailable(f"the database cannot be reached: {error}") from error


def _engine(url: str, options: dict[str, str]) -> AsyncEngine:
    failures.check_url(url)
    try:
        is_postgres = sa.make_url(url).get_backend_name() == "postgresql"
        arguments = {"connect_timeout": CONNECT_S} | options if is_postgres else {}
        engine = create_async_engine(url, connect_args=arguments, hide_parameters=True)
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise exc.ArgumentError(f"{engine.dialect.name} is not supported")
    except (exc.SQLAlchemyError, ImportError, ValueError) as error:
        said = f"the database URL cannot be used: {failures.one_line(error)}"
        raise Unusable(said, hint=failures.URL_HINT) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _configure)
        sa.event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin` does
    cursor = connection.cursor()
    # WAL with NORMAL survives a killed process; a power cut may cost the last transactions, never the file.
    pragmas = ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={1000 * BUSY_S:.0f}", "foreign_keys=ON")
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    """A writer takes the lock before it reads: one that waited for it later could no longer write (SQLITE_BUSY)."""
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
