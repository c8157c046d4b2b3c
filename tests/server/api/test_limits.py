"""How much and how often anybody may ask: on every route, REST, page and WebSocket alike."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from every_route import filled, routes
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from legion_server.api.limits import MOST_BYTES, MOST_BYTES_OF_MUCH, MOST_STREAMS
from legion_server.app import create_app
from legion_server.auth.limits import BURST_S
from legion_server.settings import Settings

ADMIN_TOKEN = "an-admin-token-for-tests"
STRANGER = "203.0.113.7"
LONG = {
    ("POST", "/metrics"),
    ("POST", "/network/probe"),
    ("PUT", "/training/config"),
    ("POST", "/workers/{worker_id}/heartbeat"),
    ("POST", "/relays/{relay_id}/heartbeat"),
    ("POST", "/training/rounds/{round}/spans"),
    ("POST", "/training/rounds/{round}/handover"),
    ("POST", "/training/rounds/roots"),
    ("POST", "/admin/config"),
    ("POST", "/admin/config/check"),
}
OWN_LIMIT = {("PUT", "/checkpoints/{step}/slices/{rank}"), ("PUT", "/blobs/{sha256}")}
ROUTES = sorted(routes())
REQUESTS = {route for route in ROUTES if route[0] != "WS"} - OWN_LIMIT  # those: test_runs.py, test_rounds_stored.py
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One request a second for a stranger, so 20 at once."""
    folder = tmp_path_factory.mktemp("server")
    settings = Settings(data_dir=folder, host="127.0.0.1", admin_token=ADMIN_TOKEN, address_requests_per_s=1)
    with TestClient(create_app(settings), "http://localhost", raise_server_exceptions=False) as client:
        yield client


def stranger(app: TestClient, address: str = STRANGER) -> TestClient:
    """Another client of the same running server, from somewhere else."""
    client = TestClient(app.app, "http://localhost", raise_server_exceptions=False, client=(address, 1))
    client.portal = app.portal
    return client


def most_bytes_of(method: str, path: str) -> int:
    return MOST_BYTES_OF_MUCH if (method, path) in LONG else MOST_BYTES


@pytest.mark.parametrize(("method", "path"), sorted(REQUESTS))
def test_no_route_takes_more_than_its_limit(app: TestClient, method: str, path: str) -> None:
    too_much = b"x" * (most_bytes_of(method, path) + 1)
    reply = app.request(method, filled(path), content=too_much, headers=ADMIN)
    assert reply.status_code == 413, reply.text
    assert reply.json()["slug"] == "body-too-large"
    within = app.request(method, filled(path), content=too_much[1:], headers=ADMIN)
    assert within.status_code not in (413, 500), within.text


@pytest.mark.parametrize(("method", "path"), sorted(REQUESTS))
async def test_nor_more_than_its_limit_in_pieces(house: Any, method: str, path: str) -> None:
    most, sent_bytes = most_bytes_of(method, path), 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent_bytes
        while sent_bytes < 4 * most:
            sent_bytes += most // 2
            yield b" " * (most // 2)

    reply = await house.http.request(method, filled(path), content=pieces(), headers=ADMIN)
    # Refused, or not looked at.
    assert reply.status_code == 413 or sent_bytes <= most, reply.text
    assert sent_bytes <= 2 * most


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_a_stranger_who_asks_too_often(app: TestClient, method: str, path: str) -> None:
    address = f"198.51.100.{ROUTES.index((method, path)) % 250 + 1}"
    client = stranger(app, address)
    for _ in range(int(BURST_S)):
        client.get("/ca.pem")
    if method == "WS":
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect(path, headers={"host": "localhost"}),
        ):
            pass
        reply: Any = denied.value
    else:
        reply = client.request(method, filled(path))
    assert reply.status_code == 429, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["slug"] == "too-many-requests"
    assert reply.json()["retryable"] is True
    assert 1 <= int(reply.headers["retry-after"]) <= 2


Ask = Callable[..., Any]


@pytest.fixture
async def asked(house: Any) -> AsyncIterator[Ask]:
    """Requests from an address until one is refused: how many were answered."""
    opened: list[httpx.AsyncClient] = []

    async def ask(address: str, most: int = 3000, **headers: str) -> int:
        transport = httpx.ASGITransport(house.app, client=(address, 1))
        http = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)
        opened.append(http)
        for number in range(most):
            if (await http.get("/health/live")).status_code == 429:
                return number
        return most

    yield ask
    for http in opened:
        await http.aclose()


async def test_each_address_and_each_token_has_its_own(house: Any, asked: Ask) -> None:
    member = await house.join()
    token = {"Authorization": f"Bearer {member.token}"}
    assert await asked(STRANGER) == 30 * BURST_S
    assert await asked("203.0.113.8") == 30 * BURST_S
    # A worker behind the same line is not held up by its neighbours, nor gets more by asking from elsewhere.
    assert await asked(STRANGER, **token) == 100 * BURST_S
    assert await asked("203.0.113.9", **token) == 0
    # A token that nobody has is no identity: the address counts.
    assert await asked(STRANGER, Authorization="Bearer nobody") == 0
    house.clock.now += 1.0
    assert await asked(STRANGER) == 30
    assert await asked("203.0.113.9", **token) == 100


async def test_all_addresses_of_an_ipv6_line_are_one(asked: Ask) -> None:
    assert await asked("2001:db8:1:2::1") == 30 * BURST_S
    assert await asked("2001:db8:1:2:ffff::9") == 0
    assert await asked("2001:db8:1:3::1") == 30 * BURST_S


async def test_this_machine_is_not_limited_but_a_proxy_that_nobody_named_is(
    asked: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    assert await asked("127.0.0.1", most=1000) == 1000
    assert await asked("::1", most=1000) == 1000
    assert not caplog.records
    assert await asked("127.0.0.1", most=1000, **{"X-Forwarded-For": STRANGER}) == 30 * BURST_S
    assert [record.message for record in caplog.records if "proxy not named" in record.message]
    assert await asked("127.0.0.1", most=1000) == 1000


async def test_without_limits_nobody_is_refused(settings: Settings, clock: Any, open_house: Callable[..., Any]) -> None:
    house, close = await open_house(settings.model_copy(update={"address_requests_per_s": 0}), clock)
    transport = httpx.ASGITransport(house.app, client=(STRANGER, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert {(await http.get("/health/live")).status_code for _ in range(1000)} == {204}
    await close()


def test_open_streams_of_one_caller_are_few(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legion_server.api.limits.MOST_STREAMS", 2)
    assert MOST_STREAMS > 2
    client, headers = stranger(app, "198.18.0.1"), {"host": "localhost"}
    with client.websocket_connect("/ws/events?after=0", headers=headers) as first:
        assert first.receive_json()
        with client.websocket_connect("/ws/events", headers=headers):
            with (
                pytest.raises(WebSocketDenialResponse) as denied,
                client.websocket_connect("/ws/events", headers=headers),
            ):
                pass
            assert denied.value.status_code == 429
            assert denied.value.headers["retry-after"] == "30"
    with client.websocket_connect("/ws/events?after=0", headers=headers) as again:
        assert again.receive_json()
