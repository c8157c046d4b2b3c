"""What admins did: a log that only grows."""

from dataclasses import dataclass

import sqlalchemy as sa

from legion_server.store.database import Database
from legion_server.store.tables import audit_log as t


@dataclass(frozen=True, slots=True)
class Entry:
    """`subject`: what was acted on, by its id. `detail`: a sentence's worth, never a secret."""

    number: int
    at: float  # s since 1970
    who: str
    action: str
    subject: str
    detail: str


class AuditStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, at: float, who: str, action: str, subject: str, detail: str) -> None:
        row = {"at": at, "who": who, "action": action, "subject": subject, "detail": detail}
        async with self._database.writing() as connection:
            await connection.execute(sa.insert(t).values(row))

    async def page(self, before: int | None, limit: int) -> list[Entry]:
        """The newest entries with numbers below `before` (None: of all), newest first."""
        query = sa.select(t).order_by(t.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(t.c.number < before)
        async with self._database.reading() as connection:
            return [Entry(*row) for row in (await connection.execute(query)).all()]
