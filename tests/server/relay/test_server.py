"""The relay with real workers' TLS and gRPC through it, and with everybody whom it must turn away."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from identities import issue
from relay_of_tests import Running, relay_identity, running, until
from tls_members import LAYOUT, endpoints_of, listening, open_unit

from legion.comm.api import Batches
from legion.identity import Identity, mutual_client_context, mutual_server_context
from legion.ids import Rank, host_name
from legion.messages import Endpoint
from legion.relaying import new_nonce, session_name
from legion_client.agent import relayed
from legion_client.agent.relayed import client_hello
from legion_server.relay import server as relay_server
from legion_server.relay.routes import Limits


@contextlib.asynccontextmanager
async def echoing(folder: Path) -> AsyncIterator[Endpoint]:
    """A TLS server with a worker's certificate, in the engine's place: says back what it hears, until the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=mutual_server_context(folder))
    async with server:
        yield Endpoint(host="127.0.0.1", port=server.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def reachable(folder: Path, limits: Limits | None = None) -> AsyncIterator[tuple[Running, Identity, Identity]]:
    """A relay, a worker that is registered there and echoes, and another identity."""
    worker, other = issue(folder, 2)
    async with (
        running(folder, limits) as relay,
        echoing(relay.worker_folder(worker)) as engine,
        relay.holding(worker, engine),
    ):
        yield relay, worker, other


async def connect(relay: Running, caller: Identity, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = mutual_client_context(relay.worker_folder(caller))
    host, port = relay.endpoint.host, relay.endpoint.port
    return await asyncio.open_connection(host, port, ssl=context, server_hostname=name)


async def raw(relay: Running, data: bytes) -> bytes:
    """What the relay answers before it closes."""
    reader, writer = await asyncio.open_connection(relay.endpoint.host, relay.endpoint.port)
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    return answer


async def test_real_peers_exchange_through_a_relay(tmp_path: Path) -> None:
    async with listening(tmp_path, LAYOUT) as nodes, running(tmp_path) as relay, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(relay.holding(nodes[1].identity, nodes[1].endpoint))
        endpoints = endpoints_of(nodes)
        detour = endpoints | {Rank(1): relay.endpoint}
        await stack.enter_async_context(nodes[0].network.joined(nodes[0].member, detour))
        await stack.enter_async_context(nodes[1].network.joined(nodes[1].member, endpoints))
        open_unit(nodes[0])
        out = open_unit(nodes[1])
        values = np.arange(LAYOUT.padded_unit(0), dtype=np.float32)
        async with asyncio.TaskGroup() as tasks:
            for index in range(4):
                tasks.create_task(nodes[0].member.scatter(0, Batches((index,), 1), 0, values))
            tasks.create_task(nodes[1].member.mailbox.complete(0, 0))
        part = LAYOUT.bounds(0, 1)
        assert np.array_equal(out, 4 * values[part.start : part.stop])
        assert relay.relay.carried_bytes > out.nbytes
        assert relay.routes.sessions[nodes[1].identity.worker_id] >= 1
        assert relay.routes.refusals == {}


async def test_a_megabyte_comes_back_and_the_end_of_one_direction_is_passed_on(tmp_path: Path) -> None:
    async with reachable(tmp_path) as (relay, worker, other):
        reader, writer = await connect(relay, other, host_name(worker.worker_id))
        data = bytes(range(256)) * 4096
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await until(lambda: not relay.routes.sessions)
        assert relay.relay.carried_bytes > 2 * len(data)


async def test_the_relay_cannot_stand_in_for_a_worker(tmp_path: Path) -> None:
    """Its certificate is the run's too, but another name's."""
    _, place = relay_identity(tmp_path)
    worker, caller = issue(tmp_path, 2)
    caller.save(tmp_path / "caller")
    async with echoing(place) as pretender:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                pretender.host,
                pretender.port,
                ssl=mutual_client_context(tmp_path / "caller"),
                server_hostname=host_name(worker.worker_id),
            )


async def test_who_is_not_there_is_said_in_tlss_own_words(tmp_path: Path) -> None:
    async with reachable(tmp_path) as (relay, _, other):
        for name in (host_name(other.worker_id), "example.org"):
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await connect(relay, other, name)
        assert relay.routes.refusals == {"unknown_name": 2}


async def test_a_revoked_worker_is_gone_with_its_sessions(tmp_path: Path) -> None:
    async with reachable(tmp_path) as (relay, worker, other):
        reader, writer = await connect(relay, other, host_name(worker.worker_id))
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        relay.refused[worker.worker_id] = "it was revoked"
        relay.relay.dismiss([worker.worker_id])
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(ssl.SSLError):
            await connect(relay, other, host_name(worker.worker_id))
        assert relay.routes.refusals["revoked_name"] == 1
        async with relay.holding(worker, None) as over:
            assert (await over).reason == "it was revoked"
        assert relay.routes.refusals["refused_registration"] == 1


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"\x00" * 100])
async def test_what_is_no_hello_is_counted_and_closed(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path) as relay:
        assert await raw(relay, data) == b""
        assert relay.routes.refusals == {"malformed_hello": 1}


async def test_this_machine_may_ask_what_was_counted(tmp_path: Path) -> None:
    async with reachable(tmp_path) as (relay, _, _):
        assert await raw(relay, b"GET / HTTP/1.1") == b""
        head, _, body = (await raw(relay, b"GET /metrics HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"legion_relay_workers 1.0" in body
        assert b'legion_relay_refusals_total{why="malformed_hello"} 1.0' in body
        assert relay.routes.refusals == {"malformed_hello": 1}


async def test_a_slow_hello_is_counted_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_server, "HELLO_S", 0.05)
    async with running(tmp_path) as relay:
        assert await raw(relay, client_hello("a.legion")[:100]) == b""
        assert relay.routes.refusals == {"slow_hello": 1}


async def test_a_nonce_that_nobody_was_sent_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as relay:
        assert await raw(relay, client_hello(session_name(new_nonce()))) == b""
        assert relay.routes.refusals == {"unknown_nonce": 1}


async def test_a_worker_that_answers_no_invitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_server, "INVITATION_S", 0.05)
    worker, other = issue(tmp_path, 2)
    async with running(tmp_path) as relay, relay.holding(worker, None):
        with pytest.raises(ssl.SSLError):
            await connect(relay, other, host_name(worker.worker_id))
        assert relay.routes.refusals == {"worker_silent": 1}
        assert relay.routes.calls == {}


async def test_half_open_connections_of_one_source_are_few(tmp_path: Path) -> None:
    async with running(tmp_path, Limits(half_open=2)) as relay, contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            _, writer = await asyncio.open_connection(relay.endpoint.host, relay.endpoint.port)
            stack.callback(writer.close)
        await until(lambda: relay.routes.arrive("127.0.0.1") is not None)
        relay.routes.refusals.clear()
        assert await raw(relay, b"") == b""
        assert relay.routes.refusals["half_open_source"] == 1


async def test_without_a_workers_certificate_nobody_registers(tmp_path: Path) -> None:
    async with running(tmp_path) as relay, running(tmp_path) as another:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tmp_path / "ca.pem")
        name = f"{relay.view.relay_id}.relay.legion"
        reader, writer = await asyncio.open_connection(
            relay.endpoint.host, relay.endpoint.port, ssl=context, server_hostname=name
        )
        with contextlib.suppress(ssl.SSLError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: relay.routes.refusals["refused_registration"] == 1)
        assert relay.routes.seats == {}
        assert another.routes.refusals == {}


async def test_two_places_with_one_key(tmp_path: Path) -> None:
    """The newest wins, which the other is told, and so is the server."""
    (worker,) = issue(tmp_path, 1)
    async with running(tmp_path) as relay, relay.holding(worker, None) as first:
        async with relay.holding(worker, None) as second:
            over = await first
            assert (over.welcomed, over.replaced) == (True, True)
            assert "same key" in over.reason
            assert not second.done()
            assert set(relay.routes.seats) == {worker.worker_id}
        assert relay.routes.take_doubled() == (worker.worker_id,)


async def test_a_worker_that_comes_back_takes_its_own_place(tmp_path: Path) -> None:
    (worker,) = issue(tmp_path, 1)
    instance = new_nonce()
    async with running(tmp_path) as relay, relay.holding(worker, None, instance) as first:
        async with relay.holding(worker, None, instance):
            assert (await first).replaced is False
        assert relay.routes.take_doubled() == ()


async def test_a_silent_relay_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = issue(tmp_path, 1)
    monkeypatch.setattr(relayed, "SILENT_S", 0.2)
    async with running(tmp_path) as relay, relay.holding(worker, None) as over:
        assert (await over).welcomed  # the relay pings every 5 s only
        await until(lambda: relay.routes.seats == {})


async def test_a_budget_that_is_spent_ends_sessions_and_refuses_new_ones(tmp_path: Path) -> None:
    async with reachable(tmp_path, Limits(worker_day_bytes=100_000)) as (relay, worker, other):
        reader, writer = await connect(relay, other, host_name(worker.worker_id))
        writer.write(bytes(200_000))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await reader.read(65_536):
                pass
        writer.close()
        await until(lambda: not relay.routes.sessions)
        with pytest.raises(ssl.SSLError):
            await connect(relay, other, host_name(worker.worker_id))
        assert relay.routes.refusals["over_budget"] >= 2


async def test_a_workers_rate_holds_it_back(tmp_path: Path) -> None:
    async with reachable(tmp_path, Limits(worker_bytes_per_s=1e6)) as (relay, worker, other):
        reader, writer = await connect(relay, other, host_name(worker.worker_id))
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(bytes(400_000))
        await reader.readexactly(400_000)
        took_s = loop.time() - began
        writer.close()
        assert took_s > (800_000 - 250_000) / 1e6 * 0.9  # both directions count; a burst is free
