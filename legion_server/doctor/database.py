"""Whether the server's database can be used, and whether its clock and ours agree."""

import sqlite3
import time
from contextlib import closing

import sqlalchemy as sa

from legion.check import Check
from legion.errors import LegionError
from legion_server.settings import Settings
from legion_server.store import tables as t
from legion_server.store.database import Database
from legion_server.store.migrate import revisions

MOST_SKEW_S = 60.0  # certificates, invites and credit name times
CLOCK_ADVICE = "Let the system set its clock from the network (chrony, systemd-timesyncd)."


async def database_and_clock(settings: Settings) -> list[Check]:
    """The second needs the first: there is no other clock to compare with."""
    try:
        database = Database(settings.database)
    except LegionError as error:
        return [Check("database", "problem", str(error), error.hint), _no_clock()]
    try:
        return _sqlite(settings) if database.is_sqlite else await _postgres(database)
    except LegionError as error:
        return [Check("database", "problem", str(error), error.hint), _no_clock()]
    finally:
        await database.close()


def _sqlite(settings: Settings) -> list[Check]:
    name = sa.make_url(settings.database).database
    if not name or name == ":memory:":
        found = "it is in memory, and gone with the server"
        return [Check("database", "problem", found, "Leave LEGION_DATABASE_URL out, or name a file."), _no_clock()]
    try:
        # Read only: a file that is missing must not be made.
        with closing(sqlite3.connect(f"file:{name}?mode=ro", uri=True, timeout=5.0)) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            newest = connection.execute("SELECT MAX(at) FROM events").fetchone()[0]
    except sqlite3.Error as error:
        if "unable to open" in str(error):
            return [Check("database", "skipped", f"{name} is made at the first start"), _no_clock()]
        return [Check("database", "problem", f"{name}: {error}", "Restore a backup into another folder."), _no_clock()]
    if said != "ok":
        found = f"{name} is damaged: {' '.join(str(said).split())}"
        return [Check("database", "problem", found, "Restore a backup into another folder."), _no_clock()]
    return [_schema(f"SQLite {sqlite3.sqlite_version}", version[0] if version else None), _since(newest)]


async def _postgres(database: Database) -> list[Check]:
    async with database.reading() as connection:
        began = time.time()
        query = sa.text(
            "SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp()),"
            " to_regclass('alembic_version') IS NOT NULL"
        )
        server, theirs, has_schema = (await connection.execute(query)).one()
        ended = time.time()
        found = sa.text("SELECT version_num FROM alembic_version")
        version = (await connection.execute(found)).scalar() if has_schema else None
        newest = (await connection.execute(sa.select(sa.func.max(t.events.c.at)))).scalar() if has_schema else None
    skew_s = (began + ended) / 2 - float(theirs)
    clock = _since(newest)
    if abs(skew_s) > MOST_SKEW_S:
        which = "ahead of" if skew_s > 0 else "behind"
        clock = Check("clock", "problem", f"this clock is {abs(skew_s):.0f} s {which} the database's", CLOCK_ADVICE)
    return [_schema(f"PostgreSQL {server.split()[0]}", version), clock]


def _schema(what: str, found: str | None) -> Check:
    known = revisions()
    if found is None:
        return Check("database", "ok", f"{what}; its tables are made at the first start")
    if found not in known:
        advice = "Use the Legion version that wrote it, or a newer one."
        return Check("database", "problem", f"{what} has schema {found}, which this version does not know", advice)
    if found != known[-1]:
        return Check("database", "ok", f"{what}, schema {found}; the next start brings it to {known[-1]}")
    return Check("database", "ok", f"{what}, schema {found}")


def _since(newest: float | None) -> Check:
    """The newest event cannot be of the future."""
    if newest is not None and (ahead_s := newest - time.time()) > MOST_SKEW_S:
        found = f"the newest event is {ahead_s:.0f} s in the future: this clock goes wrong, or did"
        return Check("clock", "problem", found, CLOCK_ADVICE)
    return Check("clock", "ok", "not behind what the database holds")


def _no_clock() -> Check:
    return Check("clock", "skipped", "there is nothing to compare it with")
