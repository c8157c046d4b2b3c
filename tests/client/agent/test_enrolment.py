"""Joining a real server: whom the client believes, what it sends, and what it keeps."""

import asyncio
import json
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from legion.errors import (
    InviteInvalid,
    InviteUsed,
    Refused,
    ServerUnreachable,
    StorageFailed,
    Unusable,
    WorkerRevoked,
    WrongAuthority,
)
from legion.identity import Invite
from legion.keys import load_key, signing_request
from legion.messages import Hardware
from legion_client.agent import enrolment as enrolments
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolling import enrol, renewed
from legion_client.agent.enrolment import ENROLMENT_FILE, Enrolment
from legion_client.agent.joining import join
from legion_client.machine.probe import hardware

RunningServer = Any  # see conftest


def this_machine() -> Hardware:
    return hardware(Path("/"))


@pytest.fixture
def server(shared_servers: tuple[RunningServer, RunningServer]) -> RunningServer:
    return shared_servers[0]


@pytest.fixture
def other(shared_servers: tuple[RunningServer, RunningServer]) -> RunningServer:
    return shared_servers[1]


def names_at(server: RunningServer) -> dict[str, str]:
    """Worker ids enrolled there, with their names."""
    return {worker["worker_id"]: worker["name"] for worker in server.call("GET", "/workers")}


async def joined(folder: Path, invite: Invite | None) -> Enrolment:
    return await join(folder, invite, "tester", this_machine)


async def test_join_once_and_remember(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await joined(tmp_path / "me", server.invite())
    assert await joined(tmp_path / "me", None) == enrolment
    assert Enrolment.load(tmp_path / "me") == enrolment

    def unasked() -> Hardware:
        raise AssertionError("this machine has been described already")

    assert await join(tmp_path / "me", None, "tester", unasked) == enrolment
    assert names_at(server)[enrolment.worker_id] == "tester"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "me").iterdir()}
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"key.pem", "certificate.pem", "authority.pem", ENROLMENT_FILE}


async def test_a_wrong_fingerprint_ends_it_before_anything_secret_is_sent(
    server: RunningServer, tmp_path: Path
) -> None:
    invite, before = server.invite(), names_at(server)
    with pytest.raises(WrongAuthority) as caught:
        await joined(tmp_path / "me", replace(invite, authority_sha256="0" * 64))
    assert caught.value.exit_code == 10
    assert not (tmp_path / "me").exists()
    assert names_at(server) == before
    # The token never left: the same invite still works.
    assert await joined(tmp_path / "me", invite)


async def test_a_server_with_another_authority_behind_the_same_address(
    server: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    pinned = await joined(tmp_path / "me", server.invite())
    elsewhere = f"https://127.0.0.1:{other.port}"
    async with Coordinator(elsewhere, pinned.context, pinned.worker_id, pinned.token) as coordinator:
        with pytest.raises(WrongAuthority):
            await coordinator.config()
        coordinator.local_host = "127.0.0.1"  # as if the right server had answered before
        with pytest.raises(ServerUnreachable):
            await coordinator.config()


@pytest.mark.parametrize("token", ["wrong", "x" * 43])
async def test_an_unknown_token(server: RunningServer, tmp_path: Path, token: str) -> None:
    with pytest.raises(InviteInvalid):
        await joined(tmp_path / "me", replace(server.invite(), token=token))
    assert Enrolment.load(tmp_path / "me") is None


async def test_a_used_invite(server: RunningServer, tmp_path: Path) -> None:
    invite = server.invite()
    await joined(tmp_path / "me", invite)
    with pytest.raises(InviteUsed):
        await joined(tmp_path / "other", invite)


async def test_an_answer_that_was_lost_costs_no_invite(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite, before = server.invite(), set(names_at(server))
    saved = Enrolment.save

    def power_cut(_self: Enrolment, _folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(enrolments.Enrolment, "save", power_cut)
    with pytest.raises(KeyboardInterrupt):
        await joined(tmp_path / "me", invite)
    monkeypatch.setattr(enrolments.Enrolment, "save", saved)
    enrolment = await joined(tmp_path / "me", invite)
    assert set(names_at(server)) - before == {enrolment.worker_id}


async def test_an_invite_never_replaces_another_servers_enrolment(
    server: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    enrolment, before = await joined(tmp_path / "me", server.invite()), names_at(other)
    with pytest.raises(Refused, match="belongs to") as caught:
        await joined(tmp_path / "me", other.invite())
    assert type(caught.value) is Refused
    assert Enrolment.load(tmp_path / "me") == enrolment
    assert names_at(other) == before


async def test_after_a_revocation_only_a_new_invite_lets_in(server: RunningServer, tmp_path: Path) -> None:
    first = server.invite()
    enrolment = await joined(tmp_path / "me", first)
    assert await joined(tmp_path / "me", first) == enrolment
    server.call("DELETE", f"/workers/{enrolment.worker_id}")
    with pytest.raises(WorkerRevoked):
        await joined(tmp_path / "me", first)
    assert Enrolment.load(tmp_path / "me") == enrolment
    back = await joined(tmp_path / "me", server.invite())
    assert (back.worker_id, Enrolment.load(tmp_path / "me")) == (enrolment.worker_id, back)
    (view,) = [view for view in server.call("GET", "/workers") if view["worker_id"] == back.worker_id]
    assert view["state"] == "joining"


async def test_without_an_answer_the_enrolment_is_taken_as_good(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await joined(tmp_path / "me", server.invite())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        elsewhere = replace(server.invite(), port=free.getsockname()[1])
    assert (await joined(tmp_path / "me", elsewhere)).worker_id == enrolment.worker_id


async def test_a_server_that_moved_is_followed(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await joined(tmp_path / "me", server.invite())
    moved = await joined(tmp_path / "me", replace(server.invite(), host="localhost"))
    assert moved == replace(enrolment, base_url=f"https://localhost:{server.port}")
    assert Enrolment.load(tmp_path / "me") == moved


async def test_a_renewed_certificate_is_for_the_same_key(server: RunningServer, tmp_path: Path) -> None:
    old = await joined(tmp_path / "me", server.invite())
    async with Coordinator(old.base_url, old.context, old.worker_id, old.token) as coordinator:
        reply = await coordinator.renew(signing_request(load_key(old.identity.key_pem)))
    new = renewed(tmp_path / "me", old, reply.certificate_pem)
    assert new.identity.certificate_pem != old.identity.certificate_pem
    assert (new.worker_id, Enrolment.load(tmp_path / "me")) == (old.worker_id, new)
    stranger = await joined(tmp_path / "stranger", server.invite())
    with pytest.raises(WrongAuthority, match="another key"):
        renewed(tmp_path / "me", new, stranger.identity.certificate_pem.decode())


async def test_nobody_listens(server: RunningServer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        await enrol(tmp_path / "me", replace(server.invite(), port=port), "tester", this_machine)


async def test_who_has_joined_needs_nothing_that_makes_keys(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await joined(tmp_path / "me", server.invite())
    code = (
        "import asyncio, sys; from pathlib import Path; from legion.identity import Invite\n"
        "from legion_client.agent.joining import join\n"
        "known = asyncio.run(join(Path(sys.argv[1]), Invite.parse(sys.argv[2]), 'tester', lambda: None))\n"
        "print(known.worker_id, known.context.verify_mode.name, 'cryptography' in sys.modules)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "me"), str(server.invite())]
    told = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [enrolment.worker_id, "CERT_REQUIRED", "False"]


async def test_an_enrolment_of_before_does_not_say_who_it_is_of(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await joined(tmp_path / "me", server.invite())
    file = tmp_path / "me" / ENROLMENT_FILE
    remembered = json.loads(file.read_text())
    assert remembered.pop("worker_id") == enrolment.worker_id
    file.write_text(json.dumps(remembered))
    assert Enrolment.load(tmp_path / "me") == enrolment


async def test_neither_invite_nor_enrolment(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="has not joined"):
        await joined(tmp_path / "me", None)


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json"])
async def test_a_damaged_folder_is_not_overwritten(server: RunningServer, tmp_path: Path, damage: bytes) -> None:
    await joined(tmp_path / "me", server.invite())
    (tmp_path / "me" / ENROLMENT_FILE).write_bytes(damage)
    with pytest.raises(Unusable, match=ENROLMENT_FILE):
        await joined(tmp_path / "me", server.invite())
    assert (tmp_path / "me" / ENROLMENT_FILE).read_bytes() == damage


async def test_a_folder_that_cannot_be_written(server: RunningServer) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        await joined(Path("/proc/legion"), server.invite())  # where not even root may make a folder


async def test_what_cannot_be_read_is_not_called_damaged(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "me").write_text("a file where the folder belongs")
    with pytest.raises(StorageFailed, match=f"{ENROLMENT_FILE} cannot be read: Not a directory"):
        await joined(tmp_path / "me", server.invite())
