"""Parts and updates between workers of different clusters, over mutual TLS: who is let in, and what arrives."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cut_proxy import CutProxy
from identities import issue
from tls_members import Node, channel_as, listening

from legion.comm import rounds
from legion.comm.api import Usage
from legion.comm.rounds import KEY_BYTES, OPENING_BYTES, PIECE_BYTES, SERVICE, RoundLinks
from legion.errors import (
    LegionError,
    NotFinite,
    NotFound,
    PartInvalid,
    PartRefused,
    PeerLost,
    PeerRefused,
    Unavailable,
)
from legion.ids import ClusterId, RunId, WorkerId
from legion.layout import Layout
from legion.messages import Endpoint, Member
from legion.proto.peer_pb2 import BlobPiece, BlobRequest, PartPiece
from legion.rounds import Blocks, PartKey

METHODS = ("SendPart", "FetchBlob")
DIGEST = "5" * 64
MIB = 1 << 20


@dataclass
class RecordingDesk:
    """What a worker offers to others, kept in memory; `refusal` is raised for the part that has come."""

    known: set[WorkerId]
    updates: dict[str, bytes] = field(default_factory=dict)
    taken: list[tuple[WorkerId, PartKey, bytes]] = field(default_factory=list)
    admitted: list[PartKey] = field(default_factory=list)
    refuse_name: LegionError | None = None
    refuse_part: Exception | None = None

    def knows(self, worker: WorkerId) -> bool:
        return worker in self.known

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        if self.refuse_name is not None:
            raise self.refuse_name
        self.admitted.append(key)

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        if self.refuse_part is not None:
            raise self.refuse_part
        self.taken.append((sender, key, data))

    def update(self, sha256: str) -> memoryview | None:
        return memoryview(self.updates[sha256]) if sha256 in self.updates else None


@dataclass
class Meeting:
    """A worker that calls and one that is called, of different clusters."""

    caller: Node
    called: Node
    desk: RecordingDesk
    links: RoundLinks
    usage: Usage

    @property
    def target(self) -> Member:
        return Member(worker_id=self.called.identity.worker_id, endpoint=self.called.endpoint, share=1)

    async def send(self, data: bytes, **changes: Any) -> None:
        await self.links.send_part(self.target, key_of(data, **changes), data)

    async def fetch(self, sha256: str, size_bytes: int) -> bytes:
        return await self.links.fetch_blob(self.target, sha256, size_bytes)


@contextlib.asynccontextmanager
async def meeting(folder: Path) -> AsyncIterator[Meeting]:
    async with listening(folder, Layout((3 * 4096,), (1, 1))) as (caller, called):
        desk = RecordingDesk({caller.identity.worker_id})
        called.network.rounds.desk = desk
        usage = Usage()
        links = RoundLinks(caller.identity, usage)
        try:
            yield Meeting(caller, called, desk, links, usage)
        finally:
            await links.close()


def key_of(data: bytes, **changes: Any) -> PartKey:
    fields: dict[str, Any] = {
        "run_id": RunId("run-test"),
        "round": 3,
        "span": 1,
        "cluster": ClusterId("c1"),
        "rank": 0,
        "codec": 0,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "steps": 4,
        "tokens": 99,
        "blocks": (Blocks(start=0, stop=8),),
    }
    return PartKey(**(fields | changes))


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


async def pieces(first: bytes, *payloads: bytes) -> AsyncIterator[bytes]:
    yield first
    for payload in payloads:
        yield PartPiece(payload=payload).SerializeToString()


def opening(key: bytes, payload: bytes = b"") -> bytes:
    return PartPiece(key=key, payload=payload).SerializeToString()


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """How a call that is not answered ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def sent(meet: Meeting, body: AsyncIterator[bytes]) -> grpc.aio.AioRpcError:
    """What a caller is told that does not keep to the rules."""
    async with channel_as(meet.caller.identity, meet.called) as channel:
        return await refusal(channel.stream_unary(SERVICE + "SendPart")(body))


class Endless:
    """A body that never ends, 1 MiB at a time; counts what the transport took from it."""

    def __init__(self, first: bytes) -> None:
        self.taken = 0
        self._first = first

    async def pieces(self) -> AsyncIterator[bytes]:
        piece = PartPiece(payload=bytes(MIB)).SerializeToString()
        yield self._first
        while True:
            self.taken += 1
            yield piece


# Who is let in.


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from a call's body into the program is closed."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a message of a stranger was read")

    for name in ("parsed", "_key"):
        monkeypatch.setattr(rounds, name, refuse)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", METHODS)
async def test_strangers_and_workers_of_no_newest_plan_are_refused_unread(tmp_path: Path, method: str) -> None:
    stranger = issue(tmp_path, 1)[0]
    async with meeting(tmp_path) as meet:
        meet.desk.known = set()  # the caller was in a plan once
        for identity in (stranger, meet.caller.identity):
            async with channel_as(identity, meet.called) as channel:
                error = await refusal(channel.stream_unary(SERVICE + method)(pieces(b"hello")))
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                assert error.details() == "not a worker of this round"


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", METHODS)
async def test_a_strangers_endless_body_is_not_taken(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC tells who still sends "internal error"; that the body stays where it is, is what counts."""
    stranger = issue(tmp_path, 1)[0]
    async with meeting(tmp_path) as meet, channel_as(stranger, meet.called) as channel:
        body = Endless(b"hello")
        error = await refusal(channel.stream_unary(SERVICE + method)(body.pieces()))
        assert error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL)
        assert f"call refused names=['{stranger.worker_id}.legion']" in caplog.text
        assert body.taken <= 16  # MiB that fit in the transport's windows on the way
        assert meet.called.network.rounds.usage.received_bytes == 0


@pytest.mark.usefixtures("nothing_is_read")
async def test_who_takes_part_in_no_round_yet_says_come_again(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.called.network.rounds.desk = None
        with pytest.raises(PeerLost, match="unavailable"):
            await meet.send(b"part")


async def test_a_worker_that_the_other_does_not_know_is_told_so(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.known = set()
        with pytest.raises(PeerRefused, match=f"{meet.target.worker_id}: not a worker of this round"):
            await meet.send(noise(3 * MIB))
        with pytest.raises(PeerRefused, match="not a worker of this round"):
            await meet.fetch(DIGEST, 10)


async def test_whoever_listens_there_must_be_the_very_worker(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        other = Member(worker_id=meet.caller.identity.worker_id, endpoint=meet.called.endpoint, share=1)
        with pytest.raises(PeerLost):
            await meet.links.send_part(other, key_of(b"part"), b"part")
        assert meet.desk.admitted == []


# Parts.


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        4095,
        OPENING_BYTES,
        OPENING_BYTES + 1,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        2 * PIECE_BYTES,
        5 * PIECE_BYTES + 7,
    ],
)
async def test_a_part_arrives_whole(tmp_path: Path, size: int) -> None:
    data = noise(size)
    async with meeting(tmp_path) as meet:
        await meet.send(data)
        assert meet.desk.admitted == [key_of(data)]
        assert meet.desk.taken == [(meet.caller.identity.worker_id, key_of(data), data)]
        received = meet.called.network.rounds.usage.received_bytes
        assert received == meet.usage.sent_bytes
        assert size < received < size + 1000


async def test_parts_side_by_side(tmp_path: Path) -> None:
    parts = [noise(size) for size in (3 * MIB, 10, 0, MIB, 2 * MIB + 1)]
    async with meeting(tmp_path) as meet:
        await asyncio.gather(*(meet.send(data, span=span) for span, data in enumerate(parts)))
        assert {key.span: data for _, key, data in meet.desk.taken} == dict(enumerate(parts))


@pytest.mark.parametrize(
    ("data", "named"),
    [(b"", 1), (noise(9), 10), (noise(MIB), MIB + 1), (noise(3 * MIB), 3 * MIB + 5), (noise(9), 8), (noise(9), 0)],
)
async def test_a_part_shorter_or_longer_than_its_name_says_is_not_taken(
    tmp_path: Path, data: bytes, named: int
) -> None:
    async with meeting(tmp_path) as meet:
        with pytest.raises(PartInvalid, match=f"{meet.target.worker_id}: .* came for a part of {named}") as caught:
            await meet.send(data, size_bytes=named)
        assert type(caught.value) is PartInvalid
        assert meet.desk.taken == []


async def test_of_a_part_that_never_ends_no_more_is_read_than_its_name_says(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        body = Endless(opening(key_of(noise(2 * MIB)).model_dump_json().encode()))
        error = await sent(meet, body.pieces())
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
        assert body.taken <= 2 + 1 + 16  # and what fits in the transport's windows
        assert meet.desk.taken == []


async def test_a_body_without_a_piece(tmp_path: Path) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for piece in ():
            yield piece

    async with meeting(tmp_path) as meet:
        error = await sent(meet, nothing())
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "part-invalid: a part without a piece",
        )


GOOD = key_of(b"part").model_dump_json().encode()
BAD_NAMES: dict[str, tuple[bytes, str]] = {
    "no name": (b"", "cannot be read"),
    "no JSON": (b"{", "cannot be read"),
    "no UTF-8": (b"\xff\xfe", "cannot be read"),
    "no part": (b'{"round": 1}', "cannot be read"),
    "one field too many": (GOOD[:-1] + b',"mood":"good"}', "cannot be read"),
    "negative round": (GOOD.replace(b'"round":3', b'"round":-3'), "cannot be read"),
    "no steps": (GOOD.replace(b'"steps":4', b'"steps":0'), "cannot be read"),
    "blocks backwards": (GOOD.replace(b'"start":0', b'"start":9'), "cannot be read"),
    "huge number": (GOOD.replace(b'"tokens":99', b'"tokens":' + b"9" * 5000), "cannot be read"),
    "deep": (b"[" * 60_000, "cannot be read"),
    "too long": (GOOD + b" " * KEY_BYTES, f"takes {len(GOOD) + KEY_BYTES} bytes"),
}


@pytest.mark.parametrize("what", sorted(BAD_NAMES))
async def test_a_name_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    name, says = BAD_NAMES[what]
    async with meeting(tmp_path) as meet:
        error = await sent(meet, pieces(opening(name, b"part")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith("part-invalid: the name of a part ")
        assert says in error.details()
        assert meet.desk.admitted == []


@pytest.mark.parametrize("method", METHODS)
async def test_a_body_that_is_no_message(tmp_path: Path, method: str) -> None:
    async with meeting(tmp_path) as meet, channel_as(meet.caller.identity, meet.called) as channel:
        error = await refusal(channel.stream_unary(SERVICE + method)(pieces(b"\xff\xff\xff")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be read" in error.details()


REFUSALS: list[LegionError] = [
    PartRefused("the members of c1 tell of different work", reason="disagreement"),
    PartInvalid("int4: 9 bytes for 4096 elements"),
    NotFinite("the part holds NaN or infinity"),
    Unavailable("round 3 is not known here yet"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.slug)
@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_reducers_answer_comes_out_as_it_is(tmp_path: Path, error: LegionError, size: int) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.refuse_part = error
        with pytest.raises(type(error)) as caught:
            await meet.send(noise(size))
        assert type(caught.value) is type(error)
        assert str(caught.value) == f"{meet.target.worker_id}: {error}"


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.slug)
@pytest.mark.parametrize("size", [10, 3 * MIB, 20 * MIB])
async def test_of_a_part_refused_by_its_name_only_the_opening_is_sent(
    tmp_path: Path, error: LegionError, size: int
) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.refuse_name = error
        with pytest.raises(type(error)) as caught:
            await meet.send(noise(size))
        assert str(caught.value) == f"{meet.target.worker_id}: {error}"
        assert meet.usage.sent_bytes < min(size, OPENING_BYTES) + 1000


async def test_a_mistake_of_the_others_program_is_said_and_no_reason_to_give_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.refuse_part = ZeroDivisionError("by zero")
        with pytest.raises(LegionError, match="ZeroDivisionError: by zero"):
            await meet.send(b"part")
        assert "a call failed" in caplog.text
        meet.desk.refuse_part = None
        await meet.send(b"part")


# Updates.


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 11])
async def test_an_update_arrives_whole(tmp_path: Path, size: int) -> None:
    data = noise(size)
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = data
        assert await meet.fetch(DIGEST, size) == data
        assert meet.usage.received_bytes == meet.called.network.rounds.usage.sent_bytes
        assert size <= meet.usage.received_bytes <= size + 100


async def fetched(meet: Meeting, *requests: bytes) -> bytes:
    async def body() -> AsyncIterator[bytes]:
        for request in requests:
            yield request

    async with channel_as(meet.caller.identity, meet.called) as channel:
        call = channel.stream_stream(SERVICE + "FetchBlob")(body())
        return b"".join([BlobPiece.FromString(piece).payload async for piece in call])


@pytest.mark.parametrize("offset", [0, 1, MIB, 2 * MIB + 2, 2 * MIB + 3])
async def test_an_update_from_an_offset_on(tmp_path: Path, offset: int) -> None:
    data = noise(2 * MIB + 3)
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = data
        request = BlobRequest(sha256=DIGEST, offset=offset).SerializeToString()
        assert await fetched(meet, request) == data[offset:]


@pytest.mark.parametrize(("sha256", "offset"), [("6" * 64, 0), ("../../etc/passwd", 0), ("", 0), (DIGEST, 11)])
async def test_what_is_not_here_is_not_found(tmp_path: Path, sha256: str, offset: int) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(10)
        if not offset:
            with pytest.raises(NotFound, match=f"{meet.target.worker_id}: no update"):
                await meet.fetch(sha256, 10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetched(meet, BlobRequest(sha256=sha256, offset=offset).SerializeToString())
        assert caught.value.details().startswith("not-found: no update")


async def test_an_update_that_is_longer_than_announced_is_not_read_on(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(30 * MIB)
        with pytest.raises(PartInvalid, match=f"{meet.target.worker_id} sends more than the 100 bytes"):
            await meet.fetch(DIGEST, 100)
        assert meet.usage.received_bytes < 2 * MIB


async def test_an_update_that_is_shorter_comes_as_it_is(tmp_path: Path) -> None:
    """Its digest tells, and whoever asked checks that anyway."""
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(10)
        assert await meet.fetch(DIGEST, 11) == noise(10)


async def test_a_request_without_a_word(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetched(meet)
        assert caught.value.details() == "part-invalid: a call without a request"


# Peers that are gone.


async def test_a_peer_that_is_gone_is_lost(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with meeting(tmp_path) as meet:
            endpoint = Endpoint(host="127.0.0.1", port=nobody.getsockname()[1])
            gone = Member(worker_id=meet.called.identity.worker_id, endpoint=endpoint, share=1)
            with pytest.raises(PeerLost, match=f"{gone.worker_id}: unavailable"):
                await meet.links.send_part(gone, key_of(b"part"), b"part")
            with pytest.raises(PeerLost, match=f"{gone.worker_id}: unavailable"):
                await meet.links.fetch_blob(gone, DIGEST, 10)
            await meet.send(b"part")  # at his old place he is still himself


async def test_a_connection_that_breaks_costs_the_call_only(tmp_path: Path) -> None:
    data = noise(4 * MIB)
    async with meeting(tmp_path) as meet, CutProxy.to(meet.called.network.port) as proxy:
        endpoint = Endpoint(host="127.0.0.1", port=proxy.port)
        target = Member(worker_id=meet.called.identity.worker_id, endpoint=endpoint, share=1)
        proxy.cut_after(2 * MIB)
        with pytest.raises(PeerLost):
            await meet.links.send_part(target, key_of(data), data)
        assert meet.desk.taken == []
        await meet.links.send_part(target, key_of(data), data)
        assert [kept for *_, kept in meet.desk.taken] == [data]


async def test_a_silent_peer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the part and never says so."""
    monkeypatch.setattr(rounds, "SILENT_S", 0.3)
    async with meeting(tmp_path) as meet:
        forever = asyncio.Event()

        async def take_part(*_: Any) -> None:
            await forever.wait()

        meet.desk.take_part = take_part  # type: ignore[method-assign]
        with pytest.raises(PeerLost, match="deadline_exceeded"):
            await meet.send(b"part")
