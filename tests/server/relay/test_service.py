"""A relay's program against a real server: it enrols, hears whom to turn away, and outlives the server's outage."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from relay_of_tests import until

from legion.errors import InviteInvalid, Unauthenticated, Unusable, WrongAuthority
from legion.identity import CERTIFICATE_FILE, Invite, mutual_client_context
from legion.ids import host_name
from legion.keys import load_key, signing_request
from legion.messages import Endpoint
from legion.relaying import RelayLoad, RelayView, new_nonce
from legion_client.agent.enrolling import enrol as enrol_worker
from legion_client.agent.relayed import Over, hold
from legion_client.machine.probe import hardware
from legion_server.auth.ca import SERVER_VALID, open_authority
from legion_server.relay import service
from legion_server.relay.coordinator import Coordinator
from legion_server.relay.enrolment import ENROLMENT_FILE, Enrolment, enrol
from legion_server.relay.routes import DAY_S, Routes
from legion_server.relay.service import Service
from legion_server.service.relays import RELAYS_FILE
from legion_server.transport import listen
from tests.client.conftest import RunningServer


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RELAY_HEARTBEAT_S", 0.05)


def enrolled(server: RunningServer, folder: Path) -> Enrolment:
    return enrol(folder, invite_of(server), "relay")


def invite_of(server: RunningServer) -> Invite:
    return Invite.parse(server.call("POST", "/invites", {"relay": True})["invite"])


@contextlib.asynccontextmanager
async def serving(enrolment: Enrolment) -> AsyncIterator[tuple[RelayView, Routes, "asyncio.Future[None]"]]:
    routes, ready = Routes(), asyncio.Event()
    identity = enrolment.identity
    coordinator = Coordinator(enrolment.base_url, identity.authority_pem, enrolment.relay_id, enrolment.token)
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(host="127.0.0.1", port=listener.getsockname()[1])
        view = RelayView(relay_id=enrolment.relay_id, name="relay", endpoint=endpoint, load=RelayLoad())
        async with coordinator:
            running = asyncio.ensure_future(Service(enrolment, coordinator, routes, None).serve(listener, ready.set))
            try:
                await ready.wait()
                yield view, routes, running
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def registered(view: RelayView, folder: Path) -> AsyncIterator["asyncio.Future[Over]"]:
    welcome = asyncio.Event()
    over = asyncio.ensure_future(hold(view, mutual_client_context(folder), new_nonce(), lambda: None, welcome.set))
    waiting = asyncio.ensure_future(welcome.wait())
    await asyncio.wait({over, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield over
    finally:
        for task in (over, waiting):
            task.cancel()
        await asyncio.gather(over, waiting, return_exceptions=True)


async def ask(server: RunningServer, method: str, path: str) -> Any:
    return await asyncio.to_thread(server.call, method, path)


async def test_a_worker_that_is_revoked_loses_its_place(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await asyncio.to_thread(enrolled, server, tmp_path / "relay")
    known = await enrol_worker(tmp_path / "worker", server.invite(), "pc", lambda: hardware(tmp_path))
    async with serving(enrolment) as (view, routes, _), registered(view, tmp_path / "worker") as over:
        while not (listed := await ask(server, "GET", "/relays")) or not listed[0]["load"]["workers"]:
            assert not over.done()
        assert listed[0]["endpoint"]["port"] == view.endpoint.port
        await ask(server, "DELETE", f"/workers/{known.worker_id}")
        assert "taken back" in (await over).reason
        assert routes.revoked == {known.worker_id}
        async with registered(view, tmp_path / "worker") as again:
            assert "removed by the operator" in (await again).reason


async def test_while_the_server_is_away_a_certificate_is_enough(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await asyncio.to_thread(enrolled, server, tmp_path / "relay")
    known = await enrol_worker(tmp_path / "worker", server.invite(), "pc", lambda: hardware(tmp_path))
    async with serving(enrolment) as (view, routes, running):
        await asyncio.to_thread(server.kill)
        async with registered(view, tmp_path / "worker") as over:
            await until(lambda: known.worker_id in routes.seats)
            assert not over.done()
            await asyncio.to_thread(server.start)
            await ask(server, "DELETE", f"/workers/{known.worker_id}")
            assert "taken back" in (await over).reason  # the next heartbeat asks for all who are here
        assert not running.done()


@pytest.mark.parametrize("left_days", [20, -1])  # about to expire, and expired while the relay was off
async def test_a_certificate_is_renewed_without_a_restart(
    server: RunningServer, tmp_path: Path, left_days: int
) -> None:
    enrolment = await asyncio.to_thread(enrolled, server, tmp_path / "relay")
    known = await enrol_worker(tmp_path / "worker", server.invite(), "pc", lambda: hardware(tmp_path))
    enrolment = await asyncio.to_thread(grown_old, server, enrolment, left_days * DAY_S)
    before = enrolment.identity.certificate_pem
    async with serving(enrolment) as (view, routes, running):
        async with registered(view, tmp_path / "worker") as over:
            await until(lambda: (tmp_path / "relay" / CERTIFICATE_FILE).read_bytes() != before)
            assert over.done() is (left_days < 0), "who is here already notices nothing"
        async with registered(view, tmp_path / "worker") as over:
            assert not over.done(), "the running relay shows the new one"
            assert left_s(tmp_path / "relay") > 396 * DAY_S
            await ask(server, "DELETE", f"/workers/{known.worker_id}")
            assert "taken back" in (await over).reason
            assert routes.revoked == {known.worker_id}
        assert not running.done()
    renewed = Enrolment.load(tmp_path / "relay")
    assert renewed is not None
    assert (renewed.relay_id, renewed.token) == (enrolment.relay_id, enrolment.token)


def grown_old(server: RunningServer, enrolment: Enrolment, left_s: float) -> Enrolment:
    """The same relay, whose certificate was made so long ago that this is left of it."""
    server.kill()
    made_at = time.time() + left_s - SERVER_VALID.total_seconds()
    request = signing_request(load_key(enrolment.identity.key_pem))
    _, certificate, until = open_authority(server.data_dir, time.time()).sign_relay(request, made_at)
    (enrolment.folder / CERTIFICATE_FILE).write_text(certificate)
    known = json.loads((server.data_dir / RELAYS_FILE).read_text())
    known["relays"][0]["certificate_until"] = until
    (server.data_dir / RELAYS_FILE).write_text(json.dumps(known))
    server.start()
    found = Enrolment.load(enrolment.folder)
    assert found is not None
    return found


def left_s(folder: Path) -> float:
    certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
    return certificate.not_valid_after_utc.timestamp() - time.time()


async def test_a_relay_that_was_removed_ends(server: RunningServer, tmp_path: Path) -> None:
    enrolment = await asyncio.to_thread(enrolled, server, tmp_path / "relay")
    async with serving(enrolment) as (_, _, running):
        await ask(server, "DELETE", f"/relays/{enrolment.relay_id}")
        with pytest.raises(Unauthenticated):
            await running


def test_enrolment_is_remembered_and_checked(server: RunningServer, tmp_path: Path) -> None:
    first = enrolled(server, tmp_path / "relay")
    assert Enrolment.load(tmp_path / "relay") == first
    assert Enrolment.load(tmp_path / "elsewhere") is None
    again = enrolled(server, tmp_path / "relay")
    assert (again.relay_id, again.token == first.token) == (first.relay_id, False)  # the same key
    with pytest.raises(InviteInvalid):
        enrol(tmp_path / "other", server.invite(), "relay")
    invite = invite_of(server)
    with pytest.raises(WrongAuthority):
        enrol(tmp_path / "other", Invite(invite.host, invite.port, invite.token, "0" * 64), "relay")
    (tmp_path / "relay" / ENROLMENT_FILE).write_text("{")
    with pytest.raises(Unusable, match="damaged"):
        Enrolment.load(tmp_path / "relay")


def test_a_relay_is_no_worker(server: RunningServer, tmp_path: Path) -> None:
    """Its certificate is one of a server only: a relay cannot register, nor call a worker in a worker's name."""
    enrolment = enrolled(server, tmp_path / "relay")
    assert host_name(enrolment.identity.worker_id) not in enrolment.identity.certificate_pem.decode()

    async def try_to_register() -> Over:
        async with serving(enrolment) as (view, _, _), registered(view, tmp_path / "relay") as over:
            return await over

    over = asyncio.run(try_to_register())
    assert not over.welcomed
