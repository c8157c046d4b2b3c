"""Enrolling, being heard, leaving, and every way to be refused."""

from typing import Any

import pytest
from cryptography import x509

from legion.identity import Invite
from legion.ids import host_name
from legion.keys import new_key, signing_request, worker_id_of_key
from legion.messages import PROTOCOL
from legion_server.auth.limits import BURST

ENROLLED, REFUSED = 201, 403


async def test_enrolment_gives_a_certificate_and_a_token(house: Any) -> None:
    key = new_key()
    reply = (await house.enrol(key=key)).json()
    worker = worker_id_of_key(key)
    assert reply["worker_id"] == worker
    assert reply["authority_pem"] == (await house.http.get("/ca.pem")).text
    certificate = x509.load_pem_x509_certificate(reply["certificate_pem"].encode())
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == f"CN={host_name(worker)}"
    (view,) = (await house.admin.get("/workers")).json()
    assert (view["worker_id"], view["state"]) == (worker, "joining")
    assert "token" not in str(view)


async def test_a_repeated_enrolment_is_one_use(house: Any) -> None:
    key, token = new_key(), await house.token()
    first, second = await house.enrol(token, key), await house.enrol(token, key)
    assert (first.status_code, second.status_code) == (ENROLLED, ENROLLED)
    assert first.json()["worker_id"] == second.json()["worker_id"]
    old = await house.http.get("/data/manifest", headers={"Authorization": f"Bearer {first.json()['token']}"})
    assert old.status_code == 401  # only the newest token is good


async def refusal(reply: Any, status: int, slug: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = reply.json()
    assert (problem["slug"], problem["status"]) == (slug, status)
    assert problem["detail"]
    assert problem["hint"]
    return problem


async def test_wrong_used_and_expired_invites(house: Any) -> None:
    await refusal(await house.enrol("no-such-token"), REFUSED, "invite-invalid")
    token = await house.token()
    await house.enrol(token)
    await refusal(await house.enrol(token), REFUSED, "invite-used")
    token = await house.token(valid_s=60)
    house.clock.now += 60
    await refusal(await house.enrol(token), REFUSED, "invite-expired")


async def test_an_invite_for_two(house: Any) -> None:
    token = await house.token(uses=2)
    assert [(await house.enrol(token)).status_code for _ in range(3)] == [ENROLLED, ENROLLED, REFUSED]


async def test_guessing_is_slowed_down_but_the_known_go_on(house: Any) -> None:
    member = await house.join()
    good = await house.token()
    for _ in range(BURST):
        assert (await house.enrol("guess")).status_code == REFUSED
    reply = await house.enrol(good)
    await refusal(reply, 429, "too-many-requests")
    assert 1 <= int(reply.headers["retry-after"]) <= 6
    assert (await member.beat("preparing")).status_code == 200
    house.clock.now += 10
    assert (await house.enrol(good)).status_code == ENROLLED


async def test_another_protocol_is_refused_before_the_invite_is_used(house: Any) -> None:
    token = await house.token()
    problem = await refusal(await house.enrol(token, protocol=PROTOCOL + 1), 426, "protocol-mismatch")
    assert f"protocol {PROTOCOL + 1}, this server {PROTOCOL}" in problem["detail"]
    assert (await house.enrol(token)).status_code == ENROLLED
    member = await house.join()
    await refusal(await member.beat("joining", protocol=PROTOCOL + 1), 426, "protocol-mismatch")


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1])
async def test_another_protocol_is_told_so_even_if_its_messages_have_other_fields(house: Any, protocol: int) -> None:
    member = await house.join()
    url, headers = f"/workers/{member.worker_id}/heartbeat", member.headers
    more = {"protocol": protocol, "state": "ready", "mood": "good"}
    await refusal(await house.http.post(url, json=more, headers=headers), 426, "protocol-mismatch")
    await refusal(await house.http.post(url, json={"protocol": protocol}, headers=headers), 426, "protocol-mismatch")
    await refusal(await house.enrol(protocol=protocol, mood="good"), 426, "protocol-mismatch")


@pytest.mark.parametrize("protocol", [PROTOCOL, True, "2", None])
async def test_what_names_no_other_protocol_is_just_not_valid(house: Any, protocol: Any) -> None:
    await refusal(await house.enrol(protocol=protocol, mood="good"), 422, "unusable")
    await refusal(await house.http.post("/workers", json=[protocol]), 422, "unusable")


async def test_a_bad_signing_request_does_not_cost_the_invite(house: Any) -> None:
    token = await house.token()
    await refusal(await house.enrol(token, csr_pem="nonsense"), 422, "unusable")
    assert (await house.enrol(token)).status_code == ENROLLED


async def test_the_invite_names_the_server_and_its_authority(house: Any) -> None:
    reply = (await house.admin.post("/invites", json={})).json()
    invite = Invite.parse(reply["invite"])
    assert (invite.host, invite.port) == ("127.0.0.1", 8000)
    assert invite.authority_sha256 == house.backend.authority.fingerprint
    assert reply["expires_at"] == house.clock.now + 7 * 86_400


async def test_anybody_sees_numbers_only(house: Any) -> None:
    member = await house.join()
    await member.beat("ready")
    for headers in ({}, member.headers):
        body = (await house.http.get("/workers", headers=headers)).json()
        assert body == {"total": 1, "by_state": {"ready": 1}} or body["total"] == 1
        assert member.worker_id not in str(body)


async def test_a_heartbeat_says_when_to_come_again(house: Any) -> None:
    member = await house.join()
    reply = (await member.beat("preparing")).json()
    assert reply.pop("run_id") == house.backend.coordinator.run.run_id
    rounds = {"round": -1, "revision": 0, "gone": [], "regroup": False, "wanted": []}
    rounds |= {"measure": [], "measure_server": True, "found": [], "doubled": ""}
    assert reply == {"phase": "waiting", "epoch": 0, "interval_s": 5.0, "certificate_renewal": False} | rounds
    house.clock.now += 21 * 86_400
    assert (await member.beat("preparing")).json()["certificate_renewal"] is True


async def test_a_worker_that_listens_everywhere_is_found_where_it_calls_from(house: Any) -> None:
    member = await house.join()
    said = {"endpoint": {"host": "0.0.0.0", "port": 77}}
    body = {"protocol": PROTOCOL, "state": "preparing"} | said
    url = f"/workers/{member.worker_id}/heartbeat"
    assert (await house.http.post(url, json=body, headers=member.headers)).status_code == 200
    (view,) = (await house.admin.get("/workers")).json()
    assert view["endpoint"] == {"host": "127.0.0.1", "port": 77, "relayed": False}


async def test_a_worker_speaks_only_for_itself(house: Any) -> None:
    one, two = await house.join(), await house.join()
    two.token = one.token
    await refusal(await two.beat("ready"), REFUSED, "refused")
    reply = await house.http.delete(f"/workers/{two.worker_id}", headers=one.headers)
    await refusal(reply, REFUSED, "refused")


async def test_silence_means_offline_and_a_heartbeat_brings_back(house: Any) -> None:
    member = await house.join()
    await member.beat("preparing")
    await house.tick(90)
    assert (await house.http.get("/workers")).json()["by_state"] == {"preparing": 1}
    await house.tick(1)
    assert (await house.http.get("/workers")).json()["by_state"] == {"offline": 1}
    await member.beat("preparing")
    assert (await house.http.get("/workers")).json()["by_state"] == {"preparing": 1}


async def test_leaving_keeps_the_enrolment(house: Any) -> None:
    member = await house.join()
    assert (await house.http.delete(f"/workers/{member.worker_id}", headers=member.headers)).status_code == 204
    assert (await house.http.get("/workers")).json()["by_state"] == {"offline": 1}
    assert (await member.beat("joining")).status_code == 200


async def test_a_revoked_worker_is_told_and_comes_back_only_with_a_new_invite(house: Any) -> None:
    key = new_key()
    body = (await house.enrol(key=key)).json()
    worker, headers = body["worker_id"], {"Authorization": f"Bearer {body['token']}"}
    assert (await house.admin.delete(f"/workers/{worker}")).status_code == 204
    await refusal(await house.http.get("/data/manifest", headers=headers), REFUSED, "worker-revoked")
    renewal = {"csr_pem": signing_request(key)}
    reply = await house.http.post(f"/workers/{worker}/certificate", json=renewal, headers=headers)
    await refusal(reply, REFUSED, "worker-revoked")
    again = (await house.enrol(key=key)).json()
    assert again["worker_id"] == worker
    assert (await house.http.get("/workers")).json()["by_state"] == {"joining": 1}


async def test_a_revoked_worker_is_not_let_in_by_the_invite_it_came_with(house: Any) -> None:
    key, token = new_key(), await house.token(uses=2)
    worker = (await house.enrol(token, key)).json()["worker_id"]
    await house.admin.delete(f"/workers/{worker}")
    await refusal(await house.enrol(token, key), REFUSED, "worker-revoked")
    assert (await house.http.get("/workers")).json()["by_state"] == {"revoked": 1}
    assert (await house.enrol(token)).status_code == ENROLLED  # the other use is somebody else's


async def test_renewal_needs_the_same_key(house: Any) -> None:
    member = await house.join()
    url = f"/workers/{member.worker_id}/certificate"
    other = {"csr_pem": signing_request(new_key())}
    await refusal(await house.http.post(url, json=other, headers=member.headers), 422, "unusable")
    same = {"csr_pem": signing_request(member.key)}
    reply = await house.http.post(url, json=same, headers=member.headers)
    certificate = x509.load_pem_x509_certificate(reply.json()["certificate_pem"].encode())
    assert certificate.public_key() == member.key.public_key()


@pytest.mark.parametrize("token", ["nonsense", "ä"])
async def test_a_wrong_token_is_never_taken_for_none(house: Any, token: str) -> None:
    reply = await house.http.get("/metrics", headers={"Authorization": f"Bearer {token}".encode("latin-1")})
    await refusal(reply, 401, "unauthenticated")
    assert reply.headers["www-authenticate"] == "Bearer"


ADMIN_ONLY = [("POST", "/invites"), ("PUT", "/training/config"), ("POST", "/runs/resume")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/invites"),
        ("PUT", "/training/config"),
        ("POST", "/runs/resume"),
        ("GET", "/training/plan"),
        ("GET", "/checkpoints"),
        ("GET", "/data/manifest"),
        ("POST", "/metrics"),
    ],
)
async def test_who_is_nobody_may_not(house: Any, method: str, path: str) -> None:
    body = {"epoch": 1} if path == "/metrics" else {}
    reply = await house.http.request(method, path, json=body if method != "GET" else None)
    await refusal(reply, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/invites"), ("PUT", "/training/config"), ("POST", "/runs/resume")]
)
async def test_a_worker_is_no_admin(house: Any, method: str, path: str) -> None:
    member = await house.join()
    await refusal(await house.http.request(method, path, json={}, headers=member.headers), REFUSED, "refused")


async def test_an_unknown_worker_is_not_found(house: Any) -> None:
    await refusal(await house.admin.delete(f"/workers/{'a' * 32}"), 404, "not-found")
    await refusal(await house.admin.delete("/workers/short"), 422, "unusable")


async def test_bodies_have_a_limit(house: Any) -> None:
    huge = "x" * (9 * 2**20)
    await refusal(await house.enrol(name=huge), 413, "body-too-large")
