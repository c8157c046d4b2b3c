"""Invites as the operator has them: made, listed, withdrawn; one may be public."""

from collections.abc import Callable
from dataclasses import dataclass

from legion.errors import NotFound
from legion.identity import Invite
from legion_server.auth.tokens import new_token, relay_invite_sha256, token_sha256
from legion_server.store.invites import InviteStore, StoredInvite


@dataclass(frozen=True, slots=True)
class Made:
    """`text` is shown once: the server keeps only its hash, unless the invite is public."""

    text: str
    expires_at: float  # s since 1970
    known_by: str  # its token's hash
    purpose: str


class Invites:
    def __init__(self, store: InviteStore, clock: Callable[[], float], invite: Callable[[str], Invite]) -> None:
        """`invite`: what a token is in full."""
        self._store = store
        self._clock = clock
        self._invite = invite

    async def make(
        self, uses: int, valid_s: float, *, relay: bool = False, note: str = "", public: bool = False
    ) -> Made:
        """A public one, which is never for relays, takes the place of the one before on the join page."""
        token, now = new_token(), self._clock()
        stored = StoredInvite(
            relay_invite_sha256(token) if relay else token_sha256(token),
            uses,
            now + valid_s,
            now,
            uses,
            "relay" if relay else "worker",
            note or None,
            token if public and not relay else None,
        )
        await self._store.add(stored)
        return Made(str(self._invite(token)), stored.expires_at, stored.token_sha256, stored.purpose or "")

    async def listed(self) -> list[StoredInvite]:
        return await self._store.listed(self._clock())

    async def public(self) -> str | None:
        """The text of the invite that everybody may have."""
        found = await self._store.public(self._clock())
        return str(self._invite(found.public_token)) if found and found.public_token else None

    async def withdraw(self, token_sha256: str) -> None:
        if not await self._store.withdraw(token_sha256):
            raise NotFound("there is no such invite")
