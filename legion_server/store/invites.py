"""The operator's view of invites. `store.sql` has what enrolment needs of them."""

from dataclasses import dataclass

import sqlalchemy as sa

from legion_server.store.database import Database
from legion_server.store.tables import invites as t


@dataclass(frozen=True, slots=True)
class StoredInvite:
    """Older ones lack when they were made, for how many uses and for whom."""

    token_sha256: str
    uses_left: int
    expires_at: float  # s since 1970
    made_at: float | None = None
    uses: int | None = None
    purpose: str | None = None  # worker or relay
    note: str | None = None
    public_token: str | None = None  # the token itself, of one that the join page shows


class InviteStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, invite: StoredInvite) -> None:
        """A public one takes the place of the one before."""
        row = {name: getattr(invite, name) for name in StoredInvite.__slots__}
        async with self._database.writing() as connection:
            if invite.public_token is not None:
                await connection.execute(sa.update(t).values(public_token=None))
            await connection.execute(sa.insert(t).values(row))

    async def listed(self, now: float) -> list[StoredInvite]:
        """Those that somebody could still use, the newest first."""
        query = sa.select(t).where(t.c.expires_at > now, t.c.uses_left > 0)
        query = query.order_by(sa.func.coalesce(t.c.made_at, 0.0).desc(), t.c.token_sha256)
        async with self._database.reading() as connection:
            return [StoredInvite(*row) for row in (await connection.execute(query)).all()]

    async def public(self, now: float) -> StoredInvite | None:
        query = sa.select(t).where(t.c.public_token.is_not(None), t.c.expires_at > now, t.c.uses_left > 0)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return StoredInvite(*row) if row else None

    async def withdraw(self, token_sha256: str) -> bool:
        """Whether there was one. Who has joined with it stays; nobody else can."""
        gone = {"uses_left": 0, "public_token": None}
        async with self._database.writing() as connection:
            found = await connection.execute(sa.update(t).where(t.c.token_sha256 == token_sha256).values(gone))
        return found.rowcount > 0
