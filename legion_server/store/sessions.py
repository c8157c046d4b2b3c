"""Who is signed in with a browser: tokens as hashes, each with its end."""

from dataclasses import dataclass

import sqlalchemy as sa

from legion_server.store.database import Database
from legion_server.store.tables import sessions as t


@dataclass(frozen=True, slots=True)
class StoredSession:
    """`who`: 'admin', or a volunteer's id. Times in s since 1970."""

    token_sha256: str
    who: str
    created_at: float
    expires_at: float
    used_at: float


class SessionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session: StoredSession, now: float) -> None:
        """And forget those that have expired."""
        row = {name: getattr(session, name) for name in StoredSession.__slots__}
        async with self._database.writing() as connection:
            await connection.execute(sa.delete(t).where(t.c.expires_at <= now))
            await connection.execute(sa.insert(t).values(row))

    async def find(self, *hashes: str) -> StoredSession | None:
        """The one that is known by one of these hashes, expired or not."""
        async with self._database.reading() as connection:
            row = (await connection.execute(sa.select(t).where(t.c.token_sha256.in_(hashes)))).first()
        return StoredSession(*row) if row else None

    async def used(self, token_sha256: str, now: float) -> None:
        async with self._database.writing() as connection:
            await connection.execute(sa.update(t).where(t.c.token_sha256 == token_sha256).values(used_at=now))

    async def opened_at(self, who: str, now: float) -> list[float]:
        query = sa.select(t.c.created_at).where(t.c.who == who, t.c.expires_at > now).order_by(t.c.created_at)
        async with self._database.reading() as connection:
            return list((await connection.execute(query)).scalars().all())

    async def remove(self, token_sha256: str) -> None:
        async with self._database.writing() as connection:
            await connection.execute(sa.delete(t).where(t.c.token_sha256 == token_sha256))

    async def remove_all(self, who: str) -> None:
        async with self._database.writing() as connection:
            await connection.execute(sa.delete(t).where(t.c.who == who))
