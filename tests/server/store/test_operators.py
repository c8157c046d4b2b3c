"""Sessions, the audit log and the operator's list of invites: over every database."""

from legion_server.store.audit import AuditStore
from legion_server.store.database import Database
from legion_server.store.invites import InviteStore, StoredInvite
from legion_server.store.sessions import SessionStore, StoredSession


def session(known_by: str, who: str = "admin", expires_at: float = 100.0) -> StoredSession:
    return StoredSession(known_by, who, 1.0, expires_at, 1.0)


async def test_sessions_are_found_by_any_of_their_hashes_until_removed(database: Database) -> None:
    store = SessionStore(database)
    await store.add(session("a"), 1.0)
    await store.add(session("b", "v" * 32), 1.0)
    assert await store.find("x", "a") == session("a")
    assert await store.find("x") is None
    await store.used("a", 7.0)
    found = await store.find("a")
    assert found is not None
    assert found.used_at == 7.0
    await store.remove("a")
    assert await store.find("a") is None
    await store.remove_all("v" * 32)
    assert await store.find("b") is None


async def test_expired_sessions_go_when_the_next_one_comes(database: Database) -> None:
    store = SessionStore(database)
    await store.add(session("old", expires_at=5.0), 1.0)
    await store.add(session("new"), 5.0)
    assert await store.find("old") is None
    assert await store.find("new") is not None


async def test_the_audit_log_is_read_from_its_end(database: Database) -> None:
    store = AuditStore(database)
    for at in range(5):
        await store.add(float(at), "admin", "run.pause", "run-1", f"entry {at}")
    first = await store.page(None, 2)
    assert [entry.detail for entry in first] == ["entry 4", "entry 3"]
    rest = await store.page(first[-1].number, 10)
    assert [entry.at for entry in rest] == [2.0, 1.0, 0.0]


def invite(known_by: str, *, made_at: float, uses: int = 3, public: str | None = None) -> StoredInvite:
    return StoredInvite(known_by, uses, 100.0, made_at, uses, "worker", "for the club", public)


async def test_invites_are_listed_while_they_can_be_used(database: Database) -> None:
    store = InviteStore(database)
    await store.add(invite("a", made_at=1.0))
    await store.add(invite("b", made_at=2.0))
    await store.add(StoredInvite("old", 1, 100.0))
    assert [one.token_sha256 for one in await store.listed(50.0)] == ["b", "a", "old"]
    assert (await store.listed(50.0))[0] == invite("b", made_at=2.0)
    assert await store.withdraw("a")
    assert not await store.withdraw("nobody's")
    assert [one.token_sha256 for one in await store.listed(50.0)] == ["b", "old"]
    assert await store.listed(100.0) == []


async def test_there_is_one_public_invite(database: Database) -> None:
    store = InviteStore(database)
    assert await store.public(1.0) is None
    await store.add(invite("a", made_at=1.0, public="token-a"))
    await store.add(invite("b", made_at=2.0, public="token-b"))
    found = await store.public(1.0)
    assert found is not None
    assert found.public_token == "token-b"
    await store.withdraw("b")
    assert await store.public(1.0) is None
    assert len(await store.listed(1.0)) == 1  # the first one is an ordinary one now
