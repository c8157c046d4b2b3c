"""What other sites cannot make a browser do here, and what sessions are good for."""

import re
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from legion_server.app import create_app
from legion_server.auth.sessions import ADMIN, ADMIN_LIFE_S, Sessions
from legion_server.settings import Settings
from legion_server.store.sessions import SessionStore
from legion_server.web.account import own_path
from legion_server.web.security import is_ours

ADMIN_TOKEN = "an-admin-token-for-tests"
NAMES = {"legion.example.org", "localhost"}


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("legion.example.org", True),
        ("LEGION.example.org.:8000", True),
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("192.0.2.7:8000", True),
        ("[::1]:8000", True),
        ("evil.example.org", False),
        ("legion.example.org.evil.org", False),
        ("", False),
        ("[::1", False),
        ("user@evil.org", False),
    ],
)
def test_which_names_are_ours(host: str, ours: bool) -> None:
    assert is_ours(host, NAMES) is ours


async def test_a_request_for_another_name_is_refused_whatever_it_wants(house: Any) -> None:
    for path in ("/", "/health", "/static/x/y", "/nowhere"):
        reply = await house.http.get(path, headers={"Host": "evil.example.org"})
        assert reply.status_code == 421, path
        assert reply.json()["slug"] == "wrong-host"
    page = await house.http.get("/", headers={"Host": "evil.example.org", "Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.org"},
        {"Origin": "http://localhost:1234"},
        {"Origin": "null"},
    ],
)
async def test_what_another_site_sends_changes_nothing(house: Any, headers: dict[str, str]) -> None:
    """Not even with the right token: a program sends no such headers."""
    assert (await house.admin.post("/invites", json={}, headers=headers)).status_code == 403
    assert (await house.http.post("/sign-in", data={"token": ADMIN_TOKEN}, headers=headers)).status_code == 403
    assert (await house.http.get("/", headers=headers)).status_code == 200


async def test_own_pages_may_send_forms(house: Any) -> None:
    for headers in ({"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        reply = await house.http.post("/sign-in", data={"token": "wrong"}, headers=headers)
        assert reply.status_code == 401


def test_another_site_hears_no_events(tmp_path: Any) -> None:
    settings = Settings(data_dir=tmp_path / "server", host="127.0.0.1", admin_token=ADMIN_TOKEN)
    with TestClient(create_app(settings), "http://localhost") as client:
        for headers in ({"origin": "https://evil.example.org"}, {"host": "evil.example.org"}):
            with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/ws/events", headers=headers):
                pass
        own = {"host": "localhost", "origin": "http://localhost"}
        with client.websocket_connect("/ws/events?after=0", headers=own) as stream:
            assert stream.receive_json()["type"] == "phase"


async def sign_in(http: httpx.AsyncClient, token: str = ADMIN_TOKEN, **fields: str) -> httpx.Response:
    return await http.post("/sign-in", data={"token": token, **fields})


async def test_signing_in_and_out(house: Any) -> None:
    page = await house.http.get("/sign-in")
    assert "Operator sign-in" in page.text
    reply = await sign_in(house.http, next="/status")
    assert reply.status_code == 303
    assert reply.headers["location"] == "/status"
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("legion=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    assert ADMIN_TOKEN not in cookie
    text = (await house.http.get("/")).text
    assert "Sign out" in text
    csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
    assert csrf
    assert (await house.http.post("/sign-out", data={"csrf": "0" * 64})).status_code == 403
    assert "Sign out" in (await house.http.get("/")).text
    assert (await house.http.post("/sign-out", data={"csrf": csrf[1]})).status_code == 303
    assert "Sign out" not in (await house.http.get("/")).text
    done = [entry.action for entry in (await house.backend.audit.page())[0]]
    assert done == ["sign-out", "sign-in"]


async def test_over_https_the_cookie_is_bound_to_the_host(house: Any) -> None:
    reply = await house.http.post("https://localhost/sign-in", data={"token": ADMIN_TOKEN})
    assert reply.headers["set-cookie"].startswith("__Host-legion=")
    assert "Secure" in reply.headers["set-cookie"]
    house.http.cookies.clear()
    token = reply.headers["set-cookie"].split("=")[1].split(";")[0]
    plain = await house.http.get("http://localhost/", headers={"Cookie": f"__Host-legion={token}"})
    assert "Sign out" not in plain.text


async def test_wrong_tokens_are_limited(house: Any) -> None:
    answers = [(await sign_in(house.http, token="wrong")).status_code for _ in range(21)]
    assert answers == [401] * 20 + [429]
    assert (await sign_in(house.http)).status_code == 429  # also the right one, from that address
    house.clock.now += 7
    assert (await sign_in(house.http)).status_code == 303


async def test_a_session_ends(house: Any) -> None:
    await sign_in(house.http)
    house.clock.now += ADMIN_LIFE_S - 1
    assert "Sign out" in (await house.http.get("/")).text
    house.clock.now += 1
    assert "Sign out" not in (await house.http.get("/")).text


async def test_a_new_admin_token_ends_the_admins_sessions(house: Any) -> None:
    token, session = await house.backend.sessions.open(ADMIN)
    assert await house.backend.sessions.find(token) == session
    store = SessionStore(house.backend.store._database)
    other = Sessions(store, house.clock, "f" * 64)
    assert await other.find(token) is None


async def test_a_volunteers_session_is_not_the_operators(house: Any) -> None:
    token, session = await house.backend.sessions.open("v" * 32)
    found = await house.backend.sessions.find(token)
    assert found == session
    assert not found.is_admin
    assert token not in repr(session)
    await house.backend.sessions.close_all("v" * 32)
    assert await house.backend.sessions.find(token) is None


async def test_a_session_opens_no_route_of_the_api(house: Any) -> None:
    await sign_in(house.http)
    assert (await house.http.post("/invites", json={})).status_code == 401
    assert "by_state" in (await house.http.get("/workers")).json()


@pytest.mark.parametrize(
    "text", ["//evil.org", "https://evil.org", "/\\evil.org", "\\/evil.org", "/\n/evil.org", "", "javascript:alert(1)"]
)
def test_nobody_is_sent_elsewhere_after_signing_in(text: str) -> None:
    assert own_path(text) == "/admin"


async def test_every_answer_has_the_headers(house: Any) -> None:
    for path in ("/", "/health", "/nowhere"):
        headers = (await house.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"


async def test_no_secret_is_logged_or_stored(house: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await sign_in(house.http, token="a-mistyped-secret")
    reply = await sign_in(house.http)
    token = reply.headers["set-cookie"].split("=")[1].split(";")[0]
    made = (await house.admin.post("/invites", json={})).json()["invite"]
    written = b"".join(path.read_bytes() for path in house.backend.settings.data_dir.glob("legion.db*"))
    for secret in ("a-mistyped-secret", token, ADMIN_TOKEN, httpx.URL(made).params["token"]):
        assert secret not in caplog.text
        assert secret.encode() not in written
