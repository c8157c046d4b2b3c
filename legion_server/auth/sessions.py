"""Signed in with a browser: a random token in a cookie, known here by its hash, with an end.

Each session has a token of its own for forms (CSRF), derived from the cookie's: who has the one that stands in a page
cannot make the other of it.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from legion.errors import Refused
from legion_server.auth.tokens import new_token, token_sha256
from legion_server.store.sessions import SessionStore, StoredSession

ADMIN = "admin"
ADMIN_LIFE_S = 12 * 3600.0
VOLUNTEER_LIFE_S = 30 * 86_400.0
USED_EVERY_S = 60.0  # how exactly the last use is known
LONGEST_TOKEN = 100  # characters; ours have 43


@dataclass(frozen=True, slots=True)
class Session:
    token_sha256: str
    who: str  # 'admin', or a volunteer's id
    csrf: str  # stands in every form
    created_at: float  # s since 1970
    expires_at: float

    @property
    def is_admin(self) -> bool:
        return self.who == ADMIN

    def check(self, csrf: str) -> None:
        """Refused, in constant time, for a form that is not of this session's pages."""
        if not hmac.compare_digest(csrf.encode(), self.csrf.encode()):
            raise Refused("this form is of an old page", hint="Load the page again, then send the form.")


class Sessions:
    """An admin's session is bound to the admin's token: a new token ends it."""

    def __init__(self, store: SessionStore, clock: Callable[[], float], admin_token_sha256: str) -> None:
        self._store = store
        self._clock = clock
        self._admin_token_sha256 = admin_token_sha256

    async def open(self, who: str) -> tuple[str, Session]:
        """The token for the cookie, which is nowhere else, and the session."""
        token, now = new_token(), self._clock()
        known_by = self._admins_hash(token) if who == ADMIN else token_sha256(token)
        expires_at = now + (ADMIN_LIFE_S if who == ADMIN else VOLUNTEER_LIFE_S)
        stored = StoredSession(known_by, who, now, expires_at, now)
        await self._store.add(stored, now)
        return token, _session(stored, token)

    async def find(self, token: str) -> Session | None:
        """None for a token that nobody has, or whose session is over."""
        if not 0 < len(token) <= LONGEST_TOKEN:
            return None
        now = self._clock()
        stored = await self._store.find(token_sha256(token), self._admins_hash(token))
        if stored is None or stored.expires_at <= now:
            return None
        if now - stored.used_at > USED_EVERY_S:
            await self._store.used(stored.token_sha256, now)
        return _session(stored, token)

    async def close(self, session: Session) -> None:
        await self._store.remove(session.token_sha256)

    async def opened_at(self, who: str) -> list[float]:
        """When each of theirs that is not over was opened; s since 1970."""
        return await self._store.opened_at(who, self._clock())

    async def close_all(self, who: str) -> None:
        """Everywhere: the account is deleted, or wants it."""
        await self._store.remove_all(who)

    def _admins_hash(self, token: str) -> str:
        return token_sha256(f"{self._admin_token_sha256}:{token}")


def _session(stored: StoredSession, token: str) -> Session:
    csrf = hmac.new(token.encode(), b"legion csrf", hashlib.sha256).hexdigest()
    return Session(stored.token_sha256, stored.who, csrf, stored.created_at, stored.expires_at)
