"""Parts between workers of different clusters, over mutual TLS: who is let in, and what arrives."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from identities import issue
from meeting import (
    DIGEST,
    METHODS,
    MIB,
    Endless,
    key_of,
    meeting,
    noise,
    opening,
    pieces,
    refusal,
    sent,
)
from tls_members import channel_as

from legion.comm import rounds
from legion.comm.rounds import KEY_BYTES, OPENING_BYTES, PIECE_BYTES, SERVICE
from legion.errors import (
    LegionError,
    NotFinite,
    PartInvalid,
    PartRefused,
    PeerLost,
    PeerRefused,
    Unavailable,
)
from legion.messages import Endpoint, Member

# Who is let in.


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from a call's body into the program is closed."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a message of a stranger was read")

    for name in ("parsed", "single", "_key"):
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
        assert meet.desk.counted == ["stranger", "stranger"]


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
        assert (meet.desk.taken, meet.desk.counted) == ([], ["invalid"])


async def test_of_a_part_that_never_ends_no_more_is_read_than_its_name_says(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        body = Endless(opening(key_of(noise(2 * MIB)).model_dump_json().encode()))
        error = await sent(meet, body.pieces())
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
        assert body.taken <= 2 + 1 + 16  # and what fits in the transport's windows
        assert meet.desk.taken == []


async def test_a_part_that_does_not_go_on_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of it takes memory here."""
    monkeypatch.setattr(rounds, "SILENT_S", 0.1)
    async with meeting(tmp_path) as meet:
        ended = asyncio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield opening(key_of(b"half").model_dump_json().encode())
            await ended.wait()

        error = await sent(meet, half())
        ended.set()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "0 of 4 bytes came in 0.100032 s" in str(error.details())
        assert (meet.desk.taken, meet.desk.counted) == ([], ["invalid"])


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
        assert meet.desk.counted == ["invalid"]


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
        assert (meet.desk.admitted, meet.desk.counted) == ([], ["invalid"])


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


async def test_channels_that_no_plan_names_are_closed_and_opened_again_when_they_are_needed(tmp_path: Path) -> None:
    """Also those to where a worker listened before: each would keep a socket and try to connect for ever."""
    async with meeting(tmp_path) as meet:
        await meet.send(b"before")
        there = meet.target
        address = f"{there.endpoint.host}:{there.endpoint.port}"
        assert meet.links.open_to == {(there.worker_id, address)}
        meet.links.keep([there])
        await meet.send(b"kept")
        assert meet.links.open_to == {(there.worker_id, address)}
        moved = there.model_copy(update={"endpoint": Endpoint(host="127.0.0.1", port=1)})
        meet.links.keep([moved])
        assert not meet.links.open_to
        await meet.send(b"again")
        assert meet.links.open_to == {(there.worker_id, address)}
        meet.links.keep([])
        assert not meet.links.open_to


async def test_a_call_under_way_outlives_its_channel(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        sending = asyncio.ensure_future(meet.send(noise(1 << 20)))
        while not meet.links.open_to:  # noqa: ASYNC110  the call opens it, and tells nobody
            await asyncio.sleep(0)
        meet.links.keep([])
        await sending
