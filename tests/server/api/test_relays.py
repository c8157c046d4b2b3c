"""How workers are reached: relays that enrol and tell what they carry, and a server that dials back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from legion.identity import Identity, mutual_server_context
from legion.ids import RelayId
from legion.keys import key_pem, new_key, signing_request
from legion.messages import PROTOCOL
from legion.relaying import RELAY_GONE_S, relay_name
from legion_server.auth.ca import SERVER_VALID
from legion_server.domain.reachability import allowed, hosts
from legion_server.domain.relays import RENEW_BEFORE_S


async def enrol_relay(house: Any, key: Any, **invite: Any) -> Any:
    token = await house.token(**{"relay": True} | invite)
    body = {"protocol": PROTOCOL, "token": token, "csr_pem": signing_request(key), "name": "pipe\n1"}
    return await house.http.post("/relays", json=body)


class Relay:
    """An enrolled relay of a test, and what it says."""

    def __init__(self, house: Any, key: Any, body: dict[str, Any]) -> None:
        self.house, self.key, self.body = house, key, body
        self.relay_id = RelayId(body["relay_id"])
        self.headers = {"Authorization": f"Bearer {body['token']}"}

    async def beat(self, port: int, **said: Any) -> Any:
        body = {"protocol": PROTOCOL, "endpoint": {"host": "0.0.0.0", "port": port}} | said
        return await self.house.http.post(f"/relays/{self.relay_id}/heartbeat", json=body, headers=self.headers)

    async def why_not(self, worker: str) -> int:
        path = f"/relays/{self.relay_id}/workers/{worker}"
        status: int = (await self.house.http.get(path, headers=self.headers)).status_code
        return status


@pytest.fixture
async def relay(house: Any) -> Relay:
    key = new_key()
    reply = await enrol_relay(house, key)
    assert reply.status_code == 201, reply.text
    return Relay(house, key, reply.json())


@contextlib.asynccontextmanager
async def shows(folder: Path, key: Any, body: dict[str, Any], authority: str) -> AsyncIterator[int]:
    """The port of a TLS server with this certificate."""
    Identity(key_pem(key), body["certificate_pem"].encode(), authority.encode()).save(folder)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=mutual_server_context(folder)
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def clock(clock: Any) -> Any:
    """Certificates are looked at by OpenSSL, which has a clock of its own."""
    clock.now = time.time()
    return clock


async def test_a_relay_enrols_with_an_invite_for_relays_only(house: Any, relay: Relay) -> None:
    certificate = x509.load_pem_x509_certificate(relay.body["certificate_pem"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [relay_name(relay.relay_id)]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [use.dotted_string for use in usage] == ["1.3.6.1.5.5.7.3.1"]  # no worker believes it as a caller
    refused = await enrol_relay(house, new_key(), relay=False)
    assert (refused.status_code, refused.json()["slug"]) == (403, "invite-invalid")
    worker = await house.enrol(await house.token(relay=True))
    assert (worker.status_code, worker.json()["slug"]) == (403, "invite-invalid")


async def test_a_relay_speaks_for_itself_only_and_is_no_worker(house: Any, relay: Relay) -> None:
    member = await house.join()
    other = Relay(house, None, relay.body | {"relay_id": "a" * 32})
    assert (await other.beat(1)).status_code == 403
    assert (await house.http.get("/data/manifest", headers=relay.headers)).status_code == 401
    for headers, status in (({}, 401), (member.headers, 403), (house.admin.headers, 403)):
        path = f"/relays/{relay.relay_id}/heartbeat"
        body = {"protocol": PROTOCOL, "endpoint": {"host": "h", "port": 1}}
        assert (await house.http.post(path, json=body, headers=headers)).status_code == status


async def test_workers_are_sent_to_relays_that_can_be_reached(house: Any, relay: Relay, tmp_path: Path) -> None:
    member = await house.join()
    reply = (await relay.beat(1)).json()
    assert "127.0.0.1 port 1" in reply["problem"]
    assert (await house.http.get("/relays", headers=member.headers)).json() == []
    async with shows(tmp_path / "relay", relay.key, relay.body, relay.body["authority_pem"]) as port:
        load = {"workers": 1, "sessions": 3, "bytes_per_s": 10.0, "share": 0.25, "refusals": {"unknown_name": 2}}
        assert (await relay.beat(port, load=load)).json() == {
            "refused": [],
            "problem": None,
            "certificate_renewal": False,
        }
    (view,) = (await house.http.get("/relays", headers=member.headers)).json()
    assert view["endpoint"] == {"host": "127.0.0.1", "port": port, "relayed": False}
    assert (view["name"], view["load"]) == ("pipe 1", load)
    assert (await relay.beat(port)).json()["problem"] is None  # where it was reached once, nobody knocks every time
    house.clock.now += RELAY_GONE_S + 1
    assert (await house.http.get("/relays", headers=member.headers)).json() == []
    assert (await house.http.get("/relays")).status_code == 401


async def test_a_relay_learns_whom_to_turn_away(house: Any, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    good, bad, strange = (await house.join()).worker_id, (await house.join()).worker_id, "a" * 32
    await house.admin.delete(f"/workers/{bad}")
    assert [await relay.why_not(worker) for worker in (good, bad, strange)] == [204, 403, 404]
    reply = await relay.beat(1, workers=[good, bad, strange], doubled=[good])
    assert reply.json()["refused"] == [bad, strange]
    assert f"worker in two places worker={good}" in caplog.text


async def test_relays_outlive_the_server_and_end_with_a_word(house: Any, relay: Relay, settings: Any) -> None:
    from legion_server.service.relays import open_relays

    assert open_relays(settings.data_dir).relay(relay.relay_id).name == "pipe 1"
    assert relay.body["token"] not in (settings.data_dir / "relays.json").read_text()
    assert (await house.admin.delete(f"/relays/{relay.relay_id}")).status_code == 204
    assert (await relay.beat(1)).status_code == 401
    assert (await house.admin.delete(f"/relays/{relay.relay_id}")).status_code == 404


async def renew(relay: Relay, key: Any, **headers: str) -> Any:
    path = f"/relays/{relay.relay_id}/certificate"
    return await relay.house.http.post(path, json={"csr_pem": signing_request(key)}, headers=headers or relay.headers)


async def listed(house: Any) -> Any:
    (found,) = (await house.admin.get("/relays/enrolled")).json()
    return found


async def test_a_certificate_is_renewed_long_before_it_ends(house: Any, relay: Relay) -> None:
    house.clock.now += SERVER_VALID.total_seconds() - RENEW_BEFORE_S - 10
    assert not (await relay.beat(1)).json()["certificate_renewal"]
    house.clock.now += 20
    assert (await relay.beat(1)).json()["certificate_renewal"]
    reply = await renew(relay, relay.key)
    certificate = x509.load_pem_x509_certificate(reply.json()["certificate_pem"].encode())
    assert certificate.public_key() == relay.key.public_key()
    until = certificate.not_valid_after_utc.timestamp()
    assert until == pytest.approx(house.clock.now + SERVER_VALID.total_seconds(), abs=2)
    assert (await listed(house))["certificate_until"] == pytest.approx(until, abs=2)
    assert not (await relay.beat(1)).json()["certificate_renewal"]


async def test_only_the_relay_itself_gets_a_certificate_and_only_for_its_key(house: Any, relay: Relay) -> None:
    member = await house.join()
    assert (await renew(relay, new_key())).status_code == 422
    for headers, status in ((member.headers, 403), (house.admin.headers, 403), ({"X-Nobody": "1"}, 401)):
        assert (await renew(relay, relay.key, **headers)).status_code == status
    await house.admin.delete(f"/relays/{relay.relay_id}")
    assert (await renew(relay, relay.key)).status_code == 401  # a removed one stays removed


async def test_an_expired_certificate_is_named_and_renewed(house: Any, tmp_path: Path) -> None:
    house.clock.now -= SERVER_VALID.total_seconds() + 60
    key = new_key()
    relay = Relay(house, key, (await enrol_relay(house, key)).json())
    house.clock.now += SERVER_VALID.total_seconds() + 60
    async with shows(tmp_path / "old", key, relay.body, relay.body["authority_pem"]) as port:
        reply = (await relay.beat(port)).json()
    assert reply["problem"] == f"the certificate that 127.0.0.1 port {port} shows has expired"
    assert reply["certificate_renewal"]
    renewed = relay.body | (await renew(relay, key)).json()
    async with shows(tmp_path / "new", key, renewed, relay.body["authority_pem"]) as port:
        assert (await relay.beat(port)).json() == {"refused": [], "problem": None, "certificate_renewal": False}


async def test_the_operator_sees_all_relays(house: Any, relay: Relay, tmp_path: Path) -> None:
    member = await house.join()
    assert (await house.http.get("/relays/enrolled")).status_code == 401
    for headers, status in ((member.headers, 403), (relay.headers, 401)):
        assert (await house.http.get("/relays/enrolled", headers=headers)).status_code == status
    found = await listed(house)
    assert (found["relay_id"], found["name"]) == (relay.relay_id, "pipe 1")
    assert (found["alive"], found["last_seen"], found["endpoint"], found["problem"]) == (False, None, None, None)
    async with shows(tmp_path / "relay", relay.key, relay.body, relay.body["authority_pem"]) as port:
        await relay.beat(port, load={"workers": 2})
    found = await listed(house)
    assert (found["alive"], found["last_seen"], found["load"]["workers"]) == (True, house.clock.now, 2)
    house.clock.now += RELAY_GONE_S + 1
    assert (await listed(house))["alive"] is False
    await relay.beat(1)
    assert "port 1" in (await listed(house))["problem"]


async def test_a_worker_that_answers_is_found(house: Any, tmp_path: Path) -> None:
    key = new_key()
    body = (await house.enrol(key=key)).json()
    path, headers = f"/workers/{body['worker_id']}/reachability", {"Authorization": f"Bearer {body['token']}"}
    async with shows(tmp_path / "worker", key, body, body["authority_pem"]) as port:
        for host in ("0.0.0.0", "127.0.0.1", "192.168.7.7"):
            asked = {"endpoint": {"host": host, "port": port}}
            reply = (await house.http.post(path, json=asked, headers=headers)).json()
            assert reply["endpoint"] == {"host": "127.0.0.1", "port": port, "relayed": False}
            assert (reply["seen_host"], reply["problem"]) == ("127.0.0.1", "")
    reply = (await house.http.post(path, json=asked, headers=headers)).json()
    assert reply["endpoint"] is None
    assert "192.168.7.7" in reply["problem"]
    assert "is no public address" in reply["problem"]
    stranger = await house.join()
    assert (await house.http.post(path, json=asked, headers=stranger.headers)).status_code == 403


async def test_somebody_else_at_the_workers_address_is_not_the_worker(house: Any, tmp_path: Path) -> None:
    member, key = await house.join(), new_key()
    other = (await house.enrol(key=key)).json()
    async with shows(tmp_path / "other", key, other, other["authority_pem"]) as port:
        asked = {"endpoint": {"host": "0.0.0.0", "port": port}}
        path = f"/workers/{member.worker_id}/reachability"
        reply = (await house.http.post(path, json=asked, headers=member.headers)).json()
    assert reply["endpoint"] is None
    assert "somebody else answers" in reply["problem"]


@given(st.ip_addresses(), st.ip_addresses())
def test_a_worker_cannot_feel_its_way_through_the_servers_networks(address: Any, seen: Any) -> None:
    found = allowed([str(address)], str(seen))
    assert found == ([str(address)] if address == seen or (address.is_global and not address.is_multicast) else [])


def test_what_the_worker_says_is_tried_first() -> None:
    assert hosts("worker.example.org", "203.0.113.7") == ("worker.example.org", "203.0.113.7")
    assert hosts("0.0.0.0", "203.0.113.7") == ("203.0.113.7",)
    assert hosts("203.0.113.7", "203.0.113.7") == ("203.0.113.7",)
