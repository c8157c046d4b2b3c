"""The door of a member: who is let in, that nothing of others is read, and what becomes of bad messages."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from identities import issue
from tls_members import (
    EPOCH,
    Endless,
    channel_as,
    channel_to,
    gradient_frames,
    joined,
    listening,
    metadata,
    open_unit,
    stream,
)

from legion.comm import frames as comm_frames
from legion.comm import server
from legion.comm.credentials import channel_credentials
from legion.comm.frames import encode_frame
from legion.comm.server import EPOCH_KEY, SERVICE
from legion.errors import LegionError, NotFinite, PartInvalid, PeerLost, StepAborted
from legion.layout import CHUNK, Layout
from legion.proto.peer_pb2 import BallotMessage, ClaimRequest, FetchRequest, PartHeader, WatchRequest

METHODS = ("Fetch", "SendGradient", "Claim", "Vote", "Watch")
ONES = np.ones(CHUNK, dtype=np.float32)
TWO_CHUNKS = Layout((4 * CHUNK,), (1, 1))  # for each of two members


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from a call's body into the program is closed."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a message of a stranger was read")

    for name in ("single", "parsed", "_gradient_opening", "decode_opening", "PartWriter"):
        monkeypatch.setattr(server, name, refuse)


async def one_and_no_end() -> AsyncIterator[bytes]:
    """A body of which one message comes, and more never does."""
    yield bytes(4096)
    await asyncio.get_running_loop().create_future()


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """How a call that is not answered ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", METHODS)
async def test_a_worker_outside_the_plan_is_refused_unread(tmp_path: Path, method: str) -> None:
    stranger = issue(tmp_path, 1)[0]
    async with joined(tmp_path) as nodes, channel_as(stranger, nodes[0]) as channel:
        error = await refusal(channel.stream_unary(SERVICE + method)(one_and_no_end(), metadata=metadata()))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.details() == "not a member of the plan"


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", METHODS)
async def test_a_strangers_endless_body_is_not_taken(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Were it read before the refusal, there would be no refusal. (gRPC tells who still sends "internal error".)"""
    stranger = issue(tmp_path, 1)[0]
    async with joined(tmp_path) as nodes, channel_as(stranger, nodes[0]) as channel:
        body = Endless()
        error = await refusal(channel.stream_unary(SERVICE + method)(body.frames(), metadata=metadata()))
        assert error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL)
        assert f"call refused names=['{stranger.worker_id}.legion']" in caplog.text
        assert body.taken <= 16  # MiB that fit in the transport's windows on the way
        assert nodes[0].member.usage.received_bytes == 0


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (metadata(EPOCH - 1), "not a member of the plan"),
        (metadata(0), "not a member of the plan"),
        (metadata(-1), "not a member of the plan"),
        (metadata("newest"), "names no plan"),
        (metadata(""), "names no plan"),
        ((), "names no plan"),
    ],
)
async def test_a_member_with_another_epoch_is_refused_unread(
    tmp_path: Path, keys: tuple[tuple[str, str], ...], says: str
) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        error = await refusal(channel.stream_unary(SERVICE + "SendGradient")(one_and_no_end(), metadata=keys))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert says in error.details()


@pytest.mark.usefixtures("nothing_is_read")
async def test_a_newer_plan_or_none_yet_means_come_again(tmp_path: Path) -> None:
    async with listening(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        send = channel.stream_unary(SERVICE + "SendGradient")
        error = await refusal(send(one_and_no_end(), metadata=metadata()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        async with nodes[0].network.joined(nodes[0].member, {}):
            error = await refusal(send(one_and_no_end(), metadata=metadata(EPOCH + 1)))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_nobody_calls_himself(tmp_path: Path) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[0].identity, nodes[0]) as channel:
        error = await refusal(channel.stream_unary(SERVICE + "Claim")(one_and_no_end(), metadata=metadata()))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("who", ["of another authority", "without a certificate"])
async def test_strangers_do_not_even_get_a_connection(tmp_path: Path, who: str) -> None:
    async with joined(tmp_path / "ours") as nodes:
        ours = nodes[0].identity.authority_pem
        other = issue(tmp_path / "theirs", 1)[0]
        credentials = {
            "of another authority": grpc.ssl_channel_credentials(ours, other.key_pem, other.certificate_pem),
            "without a certificate": grpc.ssl_channel_credentials(ours),
        }[who]
        async with channel_to(nodes[0], credentials) as channel:
            error = await refusal(channel.stream_unary(SERVICE + "SendGradient")(one_and_no_end(), metadata=metadata()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    """The caller's side: whoever listens at a member's address must prove to be that member."""
    async with joined(tmp_path / "ours") as nodes:
        other = issue(tmp_path / "theirs", 1)[0]
        async with channel_to(nodes[0], channel_credentials(other)) as channel:
            error = await refusal(channel.unary_unary(SERVICE + "Claim")(b"", metadata=metadata()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_server_must_be_the_very_member(tmp_path: Path) -> None:
    """A certificate of our authority, but of another worker than the one the address stands for."""
    async with joined(tmp_path) as nodes:
        impostor = nodes[0]
        impostor.identity = nodes[1].identity  # whose name `channel_as` expects at that port
        async with channel_as(nodes[1].identity, impostor) as channel:
            error = await refusal(channel.unary_unary(SERVICE + "Claim")(b"", metadata=metadata()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


def bad(damage: Callable[[list[bytes]], list[bytes]], **header: Any) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(damage(list(gradient_frames(np.ones(2 * CHUNK, dtype=np.float32), **header))))


def with_one(value: float) -> list[bytes]:
    values = np.ones(2 * CHUNK, dtype=np.float32)
    values[CHUNK + 77] = value
    return list(gradient_frames(values))


def of_size(chunks: int) -> Iterator[bytes]:
    return gradient_frames(np.ones(chunks * CHUNK, dtype=np.float32))


def of_nothing() -> Iterator[bytes]:
    header = PartHeader(batches=(0,), tokens=10).SerializeToString()
    yield encode_frame(b"", zlib.crc32(header), header)


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


BAD: dict[str, tuple[Callable[[], Iterator[bytes]], type[LegionError], str]] = {
    "NaN": (lambda: iter(with_one(np.nan)), NotFinite, "NaN"),
    "infinity": (lambda: iter(with_one(np.inf)), NotFinite, "NaN or infinity"),
    "too many elements": (lambda: of_size(3), PartInvalid, "12288 elements"),
    "too few elements": (lambda: of_size(1), PartInvalid, "4096 elements"),
    "no elements": (of_nothing, PartInvalid, "0 elements"),
    "unit that is not there": (bad(lambda frames: frames, unit=1), PartInvalid, "unit 1 of 1"),
    "truncated": (bad(lambda frames: frames[:1]), PartInvalid, "ended after 4096 of 8192"),
    "repeated frame": (bad(lambda frames: [*frames, frames[-1]]), PartInvalid, "without a header"),
    "damaged frame": (bad(lambda frames: [frames[0], flipped(frames[1])]), PartInvalid, "CRC"),
    "no frame": (bad(lambda frames: [frames[0], b"hello"]), PartInvalid, "no frame"),
    "no header": (lambda: iter([b"hello"]), PartInvalid, "no frame"),
    "no opening": (bad(lambda frames: frames[1:]), PartInvalid, "without a header"),
    "begun twice": (bad(lambda frames: [frames[0], *frames]), PartInvalid, "in the middle of another"),
    "micro-batch that is not there": (bad(lambda frames: frames, batches=(4,)), PartInvalid, "micro-batch 4 of 4"),
    "no micro-batch": (bad(lambda frames: frames, batches=()), PartInvalid, "not a sorted set"),
}


@pytest.mark.parametrize("what", sorted(BAD))
async def test_a_bad_gradient_fails_the_step_and_both_sides_know_whose_it_was(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CANCELLED_WITHIN_S", 0.05)
    monkeypatch.setattr(comm_frames, "PAYLOAD_BYTES", 4 * CHUNK)  # a frame for each chunk
    frames, kind, says = BAD[what]
    async with joined(tmp_path, TWO_CHUNKS) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        receiver, sender = nodes[0].member, nodes[1].member.me
        open_unit(nodes[0])
        complete = asyncio.ensure_future(receiver.mailbox.complete(0, 0))
        send = channel.stream_unary(SERVICE + "SendGradient")
        error = await refusal(send(stream(frames()), metadata=metadata()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"{kind.slug}: ")
        for told in (error.details(), str(receiver.changes.failure)):
            assert sender in told
            assert says in told
            assert told.count(sender) == 1
        with pytest.raises(kind):
            await complete


async def test_a_part_for_another_member_is_refused(tmp_path: Path) -> None:
    """Claims and votes go to the first member; the others answer none."""
    async with joined(tmp_path) as nodes, channel_as(nodes[0].identity, nodes[1]) as channel:
        claim, ballot = ClaimRequest(step=0, serial=0, batch_count=4), BallotMessage(step=0, ok=True)
        for method, request in (("Claim", claim), ("Vote", ballot)):
            call = channel.unary_unary(SERVICE + method)(request.SerializeToString(), metadata=metadata())
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "first member of the plan" in error.details()


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("Fetch", [b"\xff\xff\xff"]),
        ("Claim", [b"\xff\xff\xff"]),
        ("Claim", []),
        ("Vote", [b"\xff\xff\xff"]),
        ("Vote", []),
    ],
)
async def test_requests_that_cannot_be_read(tmp_path: Path, method: str, body: list[bytes]) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        error = await refusal(channel.stream_unary(SERVICE + method)(stream(body), metadata=metadata()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert nodes[0].member.changes.failure is None


async def test_a_method_that_is_not_there(tmp_path: Path) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        error = await refusal(channel.unary_unary(SERVICE + "Run")(b"rm", metadata=metadata()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_larger_than_any_frame_is_not_taken(tmp_path: Path) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        open_unit(nodes[0])
        send = channel.stream_unary(SERVICE + "SendGradient")
        error = await refusal(send(stream([bytes(3 << 20)]), metadata=metadata()))
        assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)


async def test_weights_of_a_step_that_is_over_are_refused_and_harm_nobody(tmp_path: Path) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        nodes[0].member.shelf.put(5, 0, ONES)
        call = channel.unary_stream(SERVICE + "Fetch")(
            FetchRequest(step=4, unit=0).SerializeToString(), metadata=metadata()
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "step 4 were asked for, the unit is at step 5" in caught.value.details()
        assert nodes[0].member.changes.failure is None


async def test_a_failed_member_answers_with_its_failure(tmp_path: Path) -> None:
    """Who calls a member whose cluster failed learns why, not just that."""
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        culprit = "the gradient of unit 0 from " + nodes[1].member.me
        nodes[0].member.changes.fail(NotFinite(culprit))
        calls = {
            "Claim": ClaimRequest(step=0, serial=0, batch_count=4),
            "Vote": BallotMessage(step=0, ok=True),
            "Fetch": FetchRequest(step=0, unit=0),
        }
        for method, request in calls.items():
            error = await refusal(
                channel.stream_unary(SERVICE + method)(stream([request.SerializeToString()]), metadata=metadata())
            )
            assert error.details() == f"not-finite: {culprit}"
        send = channel.stream_unary(SERVICE + "SendGradient")
        error = await refusal(send(stream(gradient_frames(ONES)), metadata=metadata()))
        assert error.details() == f"not-finite: {culprit}"


@pytest.mark.parametrize("why", [PeerLost("cyd cannot be reached"), StepAborted("given up, as we leave")])
async def test_who_leaves_without_a_fault_blames_nobody_who_asks(tmp_path: Path, why: LegionError) -> None:
    """Its farewell says why; until that comes, others try again."""
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:
        nodes[0].member.changes.fail(why)
        call = channel.unary_unary(SERVICE + "Claim")(ClaimRequest().SerializeToString(), metadata=metadata())
        error = await refusal(call)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "this member leaves")


async def test_a_fault_of_our_own_is_told_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined(tmp_path) as nodes, channel_as(nodes[1].identity, nodes[0]) as channel:

        def broken(*_: Any) -> None:
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(nodes[0].member, "give_claim", broken)
        call = channel.unary_unary(SERVICE + "Claim")(ClaimRequest().SerializeToString(), metadata=metadata())
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.ABORTED
        assert error.details() == "internal: ZeroDivisionError: division by zero"
        assert "Traceback" in caplog.text


@contextlib.asynccontextmanager
async def watching(channel: Any) -> AsyncIterator[Any]:
    call = channel.unary_stream(SERVICE + "Watch")(WatchRequest().SerializeToString(), metadata=metadata())
    try:
        yield call
    finally:
        call.cancel()


async def test_two_watchers_hear_a_farewell(tmp_path: Path) -> None:
    async with (
        joined(tmp_path) as nodes,
        channel_as(nodes[1].identity, nodes[0]) as channel,
        watching(channel) as first,
        watching(channel) as second,
    ):
        for call in (first, second):
            assert await call.read() == b""  # Presence with nothing to say
        leaving = asyncio.ensure_future(nodes[0].network.leave("stopped by its user"))
        for call in (first, second):
            assert b"stopped by its user" in await call.read()
            assert await call.read() is grpc.aio.EOF
        await leaving


def test_the_key_of_the_epoch_is_what_the_protocol_says() -> None:
    text = Path(server.__file__).parents[1].joinpath("proto", "peer.proto").read_text()
    assert f"`{EPOCH_KEY}`" in text
