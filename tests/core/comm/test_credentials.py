"""Who gets a TLS connection to a member: version 1.3 with a certificate of the run's authority, and nobody else."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from identities import issue
from tls_members import Node, joined, listening

from legion.comm.credentials import HANDSHAKE_S, channel_credentials
from legion.comm.server import SERVICE
from legion.identity import Identity
from legion.ids import host_name

BOUND_S = HANDSHAKE_S + 3.0  # for a machine that has other things to do


def context_of(caller: Identity | None, authority_pem: bytes, folder: Path) -> ssl.SSLContext:
    """As any TLS client could connect: Python's own, not gRPC's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority_pem.decode())
    context.set_alpn_protocols(["h2"])
    if caller is not None:
        caller.save(folder)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


async def connect(node: Node, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = host_name(node.identity.worker_id)
    return await asyncio.open_connection("127.0.0.1", node.network.port, ssl=context, server_hostname=name)


async def ended(reader: asyncio.StreamReader) -> None:
    """Until the other side closes, however it does."""
    with contextlib.suppress(OSError, ssl.SSLError):
        while await reader.read(1 << 16):
            pass


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with listening(tmp_path / "authority") as nodes:
        yield nodes


async def test_tls_1_3_with_a_certificate_is_let_in(nodes: list[Node], tmp_path: Path) -> None:
    context = context_of(nodes[1].identity, nodes[1].identity.authority_pem, tmp_path)
    reader, writer = await connect(nodes[0], context)
    version = writer.get_extra_info("ssl_object").version()
    assert version == "TLSv1.3"
    # A settings frame of HTTP/2 (length, type 4, flags, stream 0): the server speaks, so the handshake is complete.
    assert (await reader.readexactly(9))[3] == 4
    writer.close()


@pytest.mark.parametrize("ciphers", ["ALL", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"])
async def test_a_tls_1_2_client_is_refused_whatever_cipher_it_offers(
    nodes: list[Node], tmp_path: Path, ciphers: str
) -> None:
    """Also here, where grpc was imported before Legion had a say."""
    context = context_of(nodes[1].identity, nodes[1].identity.authority_pem, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(nodes[0], context)


async def test_a_tls_1_2_server_is_not_spoken_to(nodes: list[Node], tmp_path: Path) -> None:
    """The certificate is the member's own: only the version is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    nodes[0].identity.save(tmp_path)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    connected: list[str] = []

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer.get_extra_info("ssl_object").version())
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as old:
        port = old.sockets[0].getsockname()[1]
        options = [("grpc.ssl_target_name_override", host_name(nodes[0].identity.worker_id))]
        credentials = channel_credentials(nodes[1].identity)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(SERVICE + "Claim")(b"")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert connected == []


@pytest.mark.parametrize("who", ["nobody", "of another authority"])
async def test_without_a_certificate_of_the_run_the_connection_is_closed(
    nodes: list[Node], tmp_path: Path, who: str
) -> None:
    """In TLS 1.3 a client is done before its certificate is judged: what counts is that the connection ends unused."""
    caller = issue(tmp_path / "other authority", 1)[0] if who == "of another authority" else None
    context = context_of(caller, nodes[0].identity.authority_pem, tmp_path)
    async with asyncio.timeout(BOUND_S):
        with contextlib.suppress(OSError):  # SSLError is one too
            reader, writer = await connect(nodes[0], context)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            heard = b""
            with contextlib.suppress(OSError):
                while data := await reader.read(1 << 16):
                    heard += data
            writer.close()
            assert heard == b""


async def test_silent_and_slow_sockets_are_closed_in_time(nodes: list[Node]) -> None:
    """Nothing sent, half a ClientHello, and something else altogether: all at once, as they wait together."""
    starts = (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n")
    started = time.monotonic()

    async def knock(first: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", nodes[0].network.port)
        writer.write(first)
        await ended(reader)
        writer.close()

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
        for first in starts:
            tasks.create_task(knock(first))
    assert time.monotonic() - started > HANDSHAKE_S / 2  # a slow line still has time for a handshake


async def test_members_still_talk_while_others_knock(tmp_path: Path) -> None:
    async with joined(tmp_path / "authority") as nodes, contextlib.AsyncExitStack() as stack:
        for _ in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", nodes[0].network.port)
            stack.callback(writer.close)
        assert await nodes[1].member.claim(0, 4) == 0
