"""Who may do what: every route, REST, page and WebSocket alike, asked by everybody.

Programs show a bearer token, people a session's cookie; neither is good for what is the other's.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from every_route import filled, routes
from fastapi.testclient import TestClient

from legion.keys import new_key, signing_request
from legion.messages import PROTOCOL
from legion_server.app import create_app
from legion_server.auth.sessions import ADMIN
from legion_server.settings import Settings
from legion_server.web.account import COOKIE

ADMIN_TOKEN = "an-admin-token-for-tests"
VOLUNTEER = "v" * 32

# Roles: by token anonymous, worker, relay, admin; by cookie volunteer and operator, who is the admin with a browser.
EVERYBODY = {"anonymous", "worker", "relay", "admin", "volunteer", "operator"}
ADMINS = {"admin"}
WORKERS = {"worker"}  # for itself only, where the path names one
RELAYS = {"relay"}
KNOWN = {"worker", "admin"}
OPERATORS = {"operator"}
VOLUNTEERS = {"volunteer"}

ROLES: dict[tuple[str, str], set[str]] = {
    ("GET", "/openapi.json"): EVERYBODY,
    ("GET", "/health"): EVERYBODY,
    ("GET", "/ca.pem"): EVERYBODY,
    ("GET", "/workers"): EVERYBODY,  # all of it for the admin, numbers for others
    ("POST", "/workers"): EVERYBODY,  # with an invite
    ("POST", "/workers/{worker_id}/heartbeat"): WORKERS,
    ("POST", "/workers/{worker_id}/certificate"): WORKERS,
    ("POST", "/workers/{worker_id}/reachability"): WORKERS,
    ("GET", "/workers/{worker_id}/credit"): KNOWN,
    ("DELETE", "/workers/{worker_id}"): KNOWN,
    ("POST", "/invites"): ADMINS,
    ("GET", "/training/config"): EVERYBODY,
    ("PUT", "/training/config"): ADMINS,
    ("GET", "/training/plan"): KNOWN,
    ("POST", "/runs/resume"): ADMINS,
    ("GET", "/training/rounds/plan"): KNOWN,
    ("GET", "/training/rounds"): KNOWN,
    ("GET", "/training/global_version"): EVERYBODY,
    ("POST", "/training/rounds/{round}/spans"): WORKERS,
    ("POST", "/training/rounds/{round}/handover"): WORKERS,
    ("POST", "/training/rounds/roots"): WORKERS,
    ("PUT", "/blobs/{sha256}"): WORKERS,
    ("GET", "/blobs/{sha256}"): KNOWN,
    ("GET", "/metrics"): EVERYBODY,
    ("GET", "/metrics/curve"): EVERYBODY,
    ("GET", "/metrics/server"): ADMINS,  # and networks that the operator names
    ("POST", "/metrics"): WORKERS,
    ("GET", "/network/probe"): WORKERS,
    ("POST", "/network/probe"): WORKERS,
    ("POST", "/network/links"): WORKERS,
    ("GET", "/network"): EVERYBODY,
    ("GET", "/network/clusters"): ADMINS,
    ("GET", "/relays"): KNOWN,
    ("POST", "/relays"): EVERYBODY,  # with an invite
    ("GET", "/relays/enrolled"): ADMINS,
    ("POST", "/relays/{relay_id}/heartbeat"): RELAYS,
    ("POST", "/relays/{relay_id}/certificate"): RELAYS,
    ("GET", "/relays/{relay_id}/workers/{worker_id}"): RELAYS,
    ("DELETE", "/relays/{relay_id}"): ADMINS,
    ("GET", "/checkpoints"): KNOWN,
    ("GET", "/checkpoints/{step}"): KNOWN,
    ("PUT", "/checkpoints/{step}/slices/{rank}"): WORKERS,
    ("GET", "/checkpoints/{step}/slices/{rank}"): KNOWN,
    ("GET", "/checkpoints/{step}/files/{name}"): EVERYBODY,  # unless the operator keeps them for workers
    ("GET", "/data/manifest"): KNOWN,
    ("GET", "/data/{sha256}"): KNOWN,
    ("POST", "/runs/pause"): ADMINS,
    ("GET", "/runs"): EVERYBODY,
    ("POST", "/runs"): ADMINS,
    ("GET", "/runs/{run_id}"): EVERYBODY,
    ("PATCH", "/runs/{run_id}"): ADMINS,
    ("DELETE", "/runs/{run_id}"): ADMINS,
    ("GET", "/runs/{run_id}/checkpoint/{name}"): EVERYBODY,  # unless the operator keeps them for workers
    ("POST", "/runs/stop"): ADMINS,
    ("GET", "/health/live"): EVERYBODY,
    ("GET", "/health/ready"): EVERYBODY,
    ("GET", "/account"): WORKERS,
    ("POST", "/account"): WORKERS,
    ("PATCH", "/account"): WORKERS,
    ("POST", "/account/forget"): WORKERS,
    ("POST", "/account/link"): WORKERS,
    ("POST", "/account/link-code"): WORKERS,
    ("POST", "/account/recovery"): WORKERS,
    ("POST", "/account/sign-in"): WORKERS,
    ("DELETE", "/account/devices/{number}"): WORKERS,
    ("POST", "/teams"): WORKERS,
    ("GET", "/teams/named"): EVERYBODY,
    ("PATCH", "/teams/{team_id}"): WORKERS,
    ("POST", "/teams/{team_id}/requests"): WORKERS,
    ("DELETE", "/teams/{team_id}/requests/{nickname}"): WORKERS,
    ("PUT", "/teams/{team_id}/members/{nickname}"): WORKERS,
    ("DELETE", "/teams/{team_id}/members/{nickname}"): WORKERS,
    ("DELETE", "/teams/{team_id}/membership"): WORKERS,
    ("GET", "/boards/{board}"): EVERYBODY,
    ("GET", "/boards/{board}/search"): EVERYBODY,
    ("GET", "/boards/teams/{team_id}"): EVERYBODY,
    ("GET", "/boards/volunteers/{nickname}"): EVERYBODY,
    ("GET", "/export/{board}.jsonl.gz"): EVERYBODY,
    ("WS", "/ws/events"): EVERYBODY,  # names and ids for workers and admins
    ("GET", "/"): EVERYBODY,
    ("GET", "/parts/run"): EVERYBODY,
    ("GET", "/parts/people"): EVERYBODY,
    ("GET", "/parts/products"): EVERYBODY,
    ("GET", "/join"): EVERYBODY,
    ("GET", "/status"): EVERYBODY,
    ("GET", "/parts/status"): EVERYBODY,
    ("GET", "/static/{digest}/{name}"): EVERYBODY,
    ("GET", "/sign-in"): EVERYBODY,
    ("POST", "/sign-in"): EVERYBODY,  # with the admin's token
    ("POST", "/sign-out"): EVERYBODY,
    ("GET", "/leaderboard"): EVERYBODY,
    ("GET", "/parts/leaderboard"): EVERYBODY,
    ("GET", "/teams"): EVERYBODY,
    ("GET", "/teams/{team_id}"): EVERYBODY,
    ("GET", "/teams/{team_id}/certificate.svg"): EVERYBODY,
    ("GET", "/volunteers/{nickname}"): EVERYBODY,
    ("GET", "/volunteers/{nickname}/certificate.svg"): EVERYBODY,
    ("GET", "/certificates/{code}"): EVERYBODY,
    ("GET", "/account/data"): WORKERS,
    ("GET", "/me"): VOLUNTEERS,
    ("GET", "/me/data.json"): VOLUNTEERS,
    ("GET", "/sign-in/{token}"): EVERYBODY,
    ("POST", "/me/choices"): VOLUNTEERS,
    ("POST", "/me/devices/{number}/revoke"): VOLUNTEERS,
    ("POST", "/me/devices/{number}/unlink"): VOLUNTEERS,
    ("POST", "/me/forget"): VOLUNTEERS,
    ("POST", "/me/link-code"): VOLUNTEERS,
    ("POST", "/me/recovery"): VOLUNTEERS,
    ("POST", "/me/team"): VOLUNTEERS,
    ("POST", "/sign-in/{token}"): EVERYBODY,
    ("GET", "/admin"): OPERATORS,
    ("GET", "/parts/admin/workers"): OPERATORS,
    ("GET", "/admin/workers/{worker_id}"): OPERATORS,
    ("POST", "/admin/workers/{worker_id}/revoke"): OPERATORS,
    ("POST", "/admin/run/{action}"): OPERATORS,
    ("GET", "/admin/rounds"): OPERATORS,
    ("GET", "/admin/config"): OPERATORS,
    ("POST", "/admin/config"): OPERATORS,
    ("POST", "/admin/config/check"): OPERATORS,
    ("GET", "/admin/invites"): OPERATORS,
    ("POST", "/admin/invites"): OPERATORS,
    ("POST", "/admin/invites/{known_by}/withdraw"): OPERATORS,
    ("GET", "/admin/logs"): OPERATORS,
    ("GET", "/admin/storage"): OPERATORS,
    ("GET", "/admin/audit"): OPERATORS,
}
# May be refused for what they send, not for who they are.
BY_CONTENT = {
    ("POST", "/sign-in"),
    ("GET", "/sign-in/{token}"),
    ("POST", "/sign-in/{token}"),
    ("POST", "/workers"),
    ("POST", "/relays"),
    ("POST", "/sign-out"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), host="127.0.0.1", admin_token=ADMIN_TOKEN)
    with TestClient(
        create_app(settings), "http://localhost", raise_server_exceptions=False, follow_redirects=False
    ) as client:
        yield client


@pytest.fixture(scope="module")
def roles(client: TestClient) -> dict[str, dict[str, str]]:
    """What each role sends; a worker and a relay that have enrolled."""
    admin = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    hardware = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}

    def enrolled(path: str, **body: Any) -> dict[str, Any]:
        invite = client.post("/invites", json={"relay": path == "/relays"}, headers=admin).json()["invite"]
        asked = {"protocol": PROTOCOL, "token": httpx.URL(invite).params["token"], "name": "pc"}
        reply = client.post(path, json=asked | {"csr_pem": signing_request(new_key())} | body)
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    worker, relay = enrolled("/workers", hardware=hardware), enrolled("/relays")
    sessions = client.app.state.backend.sessions  # type: ignore[attr-defined]

    def cookie(who: str) -> dict[str, str]:
        assert client.portal is not None
        token, session = client.portal.call(sessions.open, who)
        return {"Cookie": f"{COOKIE}={token}", "csrf": session.csrf}

    return {
        "anonymous": {},
        "worker": {"Authorization": f"Bearer {worker['token']}", "id": worker["worker_id"]},
        "relay": {"Authorization": f"Bearer {relay['token']}", "id": relay["relay_id"]},
        "admin": admin,
        "volunteer": cookie(VOLUNTEER),
        "operator": cookie(ADMIN),
    }


def test_the_table_has_every_route() -> None:
    assert routes() == set(ROLES)


def test_no_cookie_opens_what_is_not_public_in_the_api(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]
    for (_, path), allowed in ROLES.items():
        if path in described:
            assert allowed == EVERYBODY or not allowed & {"volunteer", "operator"}, path


@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize(("method", "path"), sorted(ROLES))
def test_every_route_lets_in_whom_the_table_says(
    client: TestClient, roles: dict[str, dict[str, str]], method: str, path: str, role: str
) -> None:
    shown = dict(roles[role])
    own, csrf = shown.pop("id", None), shown.pop("csrf", "")
    is_allowed = role in ROLES[method, path]
    if method == "WS":
        with client.websocket_connect(f"{path}?after=0", headers={"host": "localhost", **shown}) as stream:
            assert stream.receive_json()["number"] == 1
        return
    if (method, path) == ("DELETE", "/workers/{worker_id}") and is_allowed:
        pytest.skip("would end the worker that others are asked as; see test_workers.py")
    reply = client.request(method, filled(path, own), headers=shown, **sent(method, path, csrf))
    assert reply.status_code != 500, reply.text
    # A worker may be refused for being in no plan: then it is told so, and not that it may never do this.
    if is_allowed and (method, path) not in BY_CONTENT and ROLES[method, path] != WORKERS:
        assert reply.status_code not in (401, 403), reply.text
    if not is_allowed:
        to_sign_in = reply.status_code == 303 and reply.headers["location"].startswith("/sign-in?next=")
        assert reply.status_code in (401, 403) or (to_sign_in and role not in OPERATORS | VOLUNTEERS), reply.text


def sent(method: str, path: str, csrf: str) -> dict[str, Any]:
    if path.startswith(("/admin", "/me", "/sign")) and method == "POST":
        return {"data": {"csrf": csrf}}
    return {"json": {}} if method in ("POST", "PUT", "PATCH") else {}


def test_a_token_that_nobody_has_is_refused_everywhere(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]
    for method, path in sorted(ROLES):
        if path in described:  # pages do not look at tokens
            client.app.state.backend.failures.buckets.clear()  # type: ignore[attr-defined]
            reply = client.request(method, filled(path, None), headers={"Authorization": "Bearer nobody"}, json={})
            assert reply.status_code == 401 or ROLES[method, path] == EVERYBODY, (method, path, reply.text)
