"""What a database's driver says, as errors that a person can act on. No URL, and so no password, is in any of them."""

import sqlite3

import sqlalchemy as sa
from sqlalchemy import exc

from legion.errors import LegionError, StorageFailed, Unavailable, Unusable

POSTGRES_HINT = "Check that PostgreSQL runs, and LEGION_DATABASE_URL: host, port, user, password and database."
URL_HINT = "Use sqlite+aiosqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (needs psycopg)."


class DatabaseDamaged(StorageFailed):
    slug = "database-damaged"
    title = "The database is damaged"
    hint = "Keep the file, check the disk, and restore a backup into another folder: legion-server restore."


def of_driver(error: exc.DBAPIError) -> LegionError:
    """What happened, and whether to wait, to make room, or to restore."""
    said = one_line(error.orig)
    if not isinstance(error.orig, sqlite3.Error):
        return Unavailable(f"the database cannot be used: {said}", hint=POSTGRES_HINT)
    match getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            hint = "End the other program, which may be a backup tool or an open sqlite3 shell; then go on."
            return Unavailable("another program keeps the database locked", hint=hint)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DatabaseDamaged(f"the database cannot be used: {said}")
        case sqlite3.SQLITE_FULL:
            return StorageFailed("the disk of the database is full")
        case _:
            return StorageFailed(f"the database cannot be used: {said}")


def check_url(url: str) -> None:
    """Unusable, and never with a part of what may be a password."""
    try:
        parsed = sa.make_url(url)
    except ValueError:
        raise Unusable("the database URL cannot be used: its port is not a number", hint=URL_HINT) from None
    except exc.ArgumentError:
        raise Unusable("the database URL cannot be used: it is not of the form of one", hint=URL_HINT) from None
    if "@" in (parsed.host or ""):
        hint = "Write such characters of user and password as %40 (@), %3A (:), %2F (/) and %25 (%)."
        raise Unusable("the database URL cannot be used: there are several @ before its host", hint=hint)


def one_line(error: BaseException | None) -> str:
    """Drivers write paragraphs."""
    return " ".join(str(error).split()).rstrip(".?")
