"""The parser of ClientHellos: real ones of OpenSSL and of gRPC, cut anywhere, and whatever else anybody may send."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from identities import issue

from legion.comm.credentials import CHANNEL_OPTIONS, channel_credentials
from legion.ids import host_name
from legion.relaying import session_name
from legion_server.relay.hello import MOST_BYTES, Malformed, Named, Unfinished, parse

NAME = "abcdefghijklmnopqrstuvwxyz234567.legion"


def openssl_hello(name: str | None = NAME, *, alpn: tuple[str, ...] = ()) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    context.verify_mode = ssl.CERT_NONE if name is None else ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


HELLO = openssl_hello()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake in records of so many bytes."""
    body = hello[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


@pytest.mark.parametrize("name", [NAME, session_name("a" * 32), "relay.example", "A.Example"])
def test_openssl_names_whom_it_wants(name: str) -> None:
    assert parse(openssl_hello(name, alpn=("h2", "http/1.1"))) == Named(name.lower())


async def test_grpc_names_whom_it_wants(tmp_path: Path) -> None:
    (identity,) = issue(tmp_path, 1)
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while parse(data) == Unfinished() and (more := await reader.read(1000)):
            data += more
        if not heard.done():
            heard.set_result(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host_name(identity.worker_id))]
    channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials(identity), options=options)
    async with server, channel:
        channel.get_state(try_to_connect=True)
        assert parse(await heard) == Named(host_name(identity.worker_id))


def test_every_beginning_of_a_hello_may_become_one() -> None:
    assert {parse(HELLO[:size]) for size in range(len(HELLO))} == {Unfinished()}


def test_what_follows_a_hello_does_not_matter() -> None:
    assert parse(HELLO + b"early data") == Named(NAME)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100, 16_384])
def test_a_hello_may_come_in_several_records(size: int) -> None:
    assert parse(in_records(HELLO, size)) == Named(NAME)


def test_a_hello_without_a_name_is_refused() -> None:
    assert parse(openssl_hello(None)) == Malformed("it names nobody")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "it is no TLS handshake"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "it is no TLS handshake"),
        (b"\x16\x02\x00\x00\x10", "it is no TLS handshake"),
        (b"\x16\x03\x01\x00\x00", "a record has an impossible length"),
        (b"\x16\x03\x01\xff\xff", "a record has an impossible length"),
        (b"\x16\x03\x01\x00\x01\x02", "the handshake does not begin with a ClientHello"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", f"it has more than {MOST_BYTES} bytes"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "the hello is shorter than it says"),
        (
            in_records(b"\x16\x03\x01\x00\x00\x01\x00\x3f\xff" + bytes(16_383), 1),
            f"it has more than {MOST_BYTES} bytes",
        ),
    ],
)
def test_what_is_no_hello(data: bytes, why: str) -> None:
    assert parse(data) == Malformed(why)


@given(st.binary(max_size=600))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    assert isinstance(parse(data), Named | Unfinished | Malformed)


@given(st.integers(0, len(HELLO) - 1), st.integers(1, 255))
def test_a_changed_hello_gets_an_answer(at: int, change: int) -> None:
    data = bytearray(HELLO)
    data[at] ^= change
    found = parse(bytes(data))
    assert isinstance(found, Named | Unfinished | Malformed)


@given(st.binary(max_size=300), st.data())
def test_more_bytes_change_no_verdict(data: bytes, draw: st.DataObject) -> None:
    """Whether they come one by one or all at once."""
    whole = in_records(b"\x16\x03\x01\x00\x00\x01" + len(data).to_bytes(3) + data, draw.draw(st.integers(1, 40)))
    verdicts = [parse(whole[:size]) for size in range(len(whole) + 1)]
    settled = [verdict for verdict in verdicts if verdict != Unfinished()]
    assert len(set(settled)) <= 1
    assert verdicts[len(verdicts) - len(settled) :] == settled
