"""One port, two protocols, over real sockets on loopback."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from legion.errors import PortInUse, Unavailable
from legion.identity import Invite, client_context, same_authority, unverified_context
from legion.messages import Event
from legion_server import transport
from legion_server.app import create_app
from legion_server.backend import Backend
from legion_server.settings import Settings
from legion_server.transport import Server, listen


class Live:
    """A server on a free port of loopback."""

    def __init__(self, app: Any, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        backend = app.state.backend
        assert isinstance(backend, Backend)
        self.backend = backend
        self.context = client_context(backend.authority.certificate_pem)

    def url(self, scheme: str = "https") -> str:
        return f"{scheme}://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(trust_env=False, **({"base_url": self.url(), "verify": self.context} | options))


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Live]:
    listener = listen("127.0.0.1", 0)
    bound = settings.model_copy(update={"port": listener.getsockname()[1]})
    app = create_app(bound)
    ready: asyncio.Future[Live] = asyncio.get_running_loop().create_future()

    async def live() -> None:
        from legion.identity import server_context

        async with app.router.lifespan_context(app):
            authority = app.state.backend.authority
            context = server_context(authority.server_certificate_file, authority.server_key_file)
            server = Server(app, listener, context, bound)
            await server.serve_until_asked(lambda: ready.set_result(Live(app, server, bound.port)), lambda: None)

    task = asyncio.create_task(live())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    found = ready.result() if ready.done() else None
    try:
        if found is not None:
            yield found
    finally:
        if found is not None:
            found.server.should_exit = True
        await task


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Live]:
    async with serving(settings) as live:
        yield live


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_https_and_plain_http_on_one_port(live: Live) -> None:
    async with live.client() as secure, live.client(base_url=live.url("http")) as plain:
        bodies = [(await http.get("/health")).json() for http in (secure, plain)]
    assert bodies[0]["run_id"] == bodies[1]["run_id"]
    # Names of this machine are in the certificate too.
    async with live.client(base_url=f"https://localhost:{live.port}") as http:
        assert (await http.get("/health")).status_code == 200


async def test_the_way_of_an_invite(live: Live) -> None:
    invite = Invite.parse((await live.backend.invites.make(1, 60.0)).text)
    async with httpx.AsyncClient(verify=unverified_context(), trust_env=False) as http:
        pem = (await http.get(f"{invite.base_url}/ca.pem")).content
    assert same_authority(pem, invite.authority_sha256)
    assert not same_authority(pem, "0" * 64)
    async with httpx.AsyncClient(verify=client_context(pem), trust_env=False) as http:
        assert (await http.get(f"{invite.base_url}/health")).status_code == 200


async def test_another_authority_is_not_believed(live: Live, tmp_path: Any) -> None:
    from legion_server.auth.ca import open_authority

    other = client_context(open_authority(tmp_path / "other", 1_700_000_000.0).certificate_pem)
    async with live.client(verify=other) as http:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await http.get("/health")


async def test_tls_1_2_is_refused(live: Live) -> None:
    old = unverified_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", live.port, ssl=old)


async def test_plain_http_from_elsewhere_is_told_how_to_do_it(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "may_speak_plainly", lambda self, peer: False)
    answer = await raw(live.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert "https://" in json.loads(body)["hint"]
    async with live.client() as http:
        assert (await http.get("/health")).status_code == 200


async def test_silent_and_half_open_connections_are_closed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HANDSHAKE_S", 0.05)
    async with serving(settings) as live:
        assert await raw(live.port, b"") == b""
        assert await raw(live.port, b"\x16\x03\x01") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        async with live.client(base_url=live.url("http")) as http:
            assert (await http.get("/health")).status_code == 200


async def test_rubbish_does_not_stop_the_server(live: Live) -> None:
    for rubbish in (b"\x00\xff\x00", b"\x16" + b"x" * 500, b"NONSENSE\r\n\r\n", b"\r\n" * 50):
        with contextlib.suppress(ConnectionResetError):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(rubbish)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
    async with live.client() as http:
        assert (await http.get("/health")).status_code == 200


async def test_a_proxy_says_whom_it_speaks_for(settings: Settings) -> None:
    trusting = Settings(**settings.model_dump() | {"trusted_proxies": "127.0.0.1", "admin_token": "a" * 20})
    async with serving(trusting) as live, live.client(base_url=live.url("http")) as http:
        for _ in range(25):
            await http.get("/metrics", headers={"Authorization": "Bearer x", "X-Forwarded-For": "203.0.113.5"})
        guess = {"Authorization": "Bearer x"}
        there = await http.get("/metrics", headers=guess | {"X-Forwarded-For": "203.0.113.5"})
        elsewhere = await http.get("/metrics", headers=guess | {"X-Forwarded-For": "203.0.113.6"})
    assert (there.status_code, elsewhere.status_code) == (429, 401)


async def test_events_over_websocket(live: Live) -> None:
    admin = {"Authorization": "Bearer an-admin-token-for-tests"}
    url = live.url("wss") + "/ws/events"
    async with live.client(headers=admin) as http:
        token = Invite.parse((await http.post("/invites", json={})).json()["invite"]).token
        from legion.keys import new_key, signing_request

        hardware = {"os": "x", "cpu_count": 1, "memory_bytes": 1, "free_disk_bytes": 1, "legion_version": "0"}
        body = {
            "protocol": 1,
            "token": token,
            "csr_pem": signing_request(new_key()),
            "name": "pc",
            "hardware": hardware,
        }
        worker = (await http.post("/workers", json=body | {"hardware": hardware})).json()

    async def first(after: int, **options: Any) -> Event:
        async with connect(f"{url}?after={after}", ssl=live.context, proxy=None, **options) as stream:
            return Event.model_validate_json(await stream.recv())

    begun = await first(0)
    assert (begun.number, begun.type, begun.data["phase"]) == (1, "phase", "waiting")
    public = await first(1)
    private = await first(1, additional_headers={"Authorization": f"Bearer {worker['token']}"})
    assert (public.number, public.type, public.data) == (2, "worker_joined", {})
    assert private.data == {"worker_id": worker["worker_id"], "name": "pc"}
    async with connect(f"{url}?after=1&token={worker['token']}", ssl=live.context, proxy=None) as stream:
        assert Event.model_validate_json(await stream.recv()) == private
    with pytest.raises(InvalidStatus) as refused:
        await first(0, additional_headers={"Authorization": "Bearer nonsense"})
    assert refused.value.response.status_code == 401


async def test_a_stream_whose_reader_sleeps_ends_without_an_error(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    """A laptop that is shut answers neither pings nor the end of TLS."""
    live.server.config.ws_ping_interval = live.server.config.ws_ping_timeout = 0.05
    request = (
        f"GET /ws/events HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    def fall_asleep() -> ssl.SSLSocket:
        """Once the server has given the stream up; nothing is answered, not even its last frame."""
        connection = socket.create_connection(("127.0.0.1", live.port))
        sleeper = live.context.wrap_socket(connection, server_hostname="127.0.0.1")
        sleeper.sendall(request.encode())
        heard = b""
        while b"keepalive ping timeout" not in heard:
            heard += sleeper.recv(4096)
        assert heard.startswith(b"HTTP/1.1 101 ")
        return sleeper

    with contextlib.closing(await asyncio.to_thread(fall_asleep)):
        admin = {"Authorization": "Bearer an-admin-token-for-tests"}
        async with live.client(headers=admin) as http:
            async with connect(live.url("wss") + "/ws/events", ssl=live.context, proxy=None) as stream:
                assert (await http.put("/training/config", json={"steps": 7})).status_code == 200
                assert Event.model_validate_json(await stream.recv()).type == "config"
            assert (await http.get("/health")).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_stopping_ends_streams_and_is_quick(settings: Settings) -> None:
    async with serving(settings) as live:
        stream = await connect(live.url("wss") + "/ws/events", ssl=live.context, proxy=None)
        live.server.should_exit = True
        async with asyncio.timeout(transport.SHUTDOWN_S):
            await stream.wait_closed()
        assert (stream.close_code, stream.close_reason) == (1001, "the server stops")
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await asyncio.open_connection("127.0.0.1", live.port)


def test_a_port_in_use_is_named() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use") as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_code == 41
    assert "--port" in caught.value.hint


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(Unavailable, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_ipv6_loopback() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listener = listen("::1", 0)
    except Unavailable:
        pytest.skip("this machine has no IPv6 loopback")
    listener.close()
