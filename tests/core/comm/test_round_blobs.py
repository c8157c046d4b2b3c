"""Updates between workers of different clusters, over mutual TLS; and peers that are gone."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cut_proxy import CutProxy
from meeting import (
    DIGEST,
    MIB,
    Meeting,
    key_of,
    meeting,
    noise,
)
from tls_members import channel_as

from legion.comm import rounds
from legion.comm.rounds import PIECE_BYTES, SERVICE, UPDATE_PIECE_BYTES
from legion.errors import (
    NotFound,
    PartInvalid,
    PeerLost,
)
from legion.messages import Endpoint, Member
from legion.outer.arriving import Memory
from legion.proto.peer_pb2 import BlobPiece, BlobRequest
from legion.rounds import UpdateKey

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


async def test_an_update_that_ends_early_is_refused(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(10)
        with pytest.raises(PartInvalid, match="less of an update"):
            await meet.fetch(DIGEST, 11)


# Updates that are still to be made.

KEY = UpdateKey(3, 1, 0)


@pytest.mark.parametrize("size", [0, 1, UPDATE_PIECE_BYTES - 1, UPDATE_PIECE_BYTES, 3 * UPDATE_PIECE_BYTES + 11])
async def test_an_update_comes_once_it_is_made(tmp_path: Path, size: int) -> None:
    data = noise(size)
    async with meeting(tmp_path) as meet:
        made = meet.desk.to_come[KEY] = asyncio.get_running_loop().create_future()
        room = Memory(max(size, 1)).room
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(meet.links.await_update(meet.target, KEY, size, room))
            async with room(size):  # nothing but its announcement comes meanwhile
                meet.desk.updates[DIGEST] = data
                made.set_result(DIGEST)
                await meet.links.fetch_blob(meet.target, DIGEST, size, bytearray())
                assert size == 0 or not asked.done()
        assert asked.result() == (DIGEST, data)


async def test_an_update_that_will_never_be_made_is_not_waited_for(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        made = meet.desk.to_come[KEY] = asyncio.get_running_loop().create_future()
        made.set_exception(NotFound("span 1 is not reduced here"))
        with pytest.raises(NotFound, match="span 1 is not reduced here"):
            await meet.links.await_update(meet.target, KEY, 10, Memory(MIB).room)


async def test_an_update_that_is_too_large_is_not_taken(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        made = meet.desk.to_come[KEY] = asyncio.get_running_loop().create_future()
        made.set_result(DIGEST)
        meet.desk.updates[DIGEST] = noise(4 * MIB)
        with pytest.raises(PartInvalid, match=f"announces an update of {4 * MIB} bytes"):
            await meet.links.await_update(meet.target, KEY, 4 * MIB - 1, Memory(MIB).room)
        assert meet.usage.received_bytes < 200


async def test_who_waits_no_more_is_not_waited_for(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        made = meet.desk.to_come[KEY] = asyncio.get_running_loop().create_future()
        given_up = asyncio.Event()
        made.add_done_callback(lambda _: given_up.set())
        asking = asyncio.create_task(meet.links.await_update(meet.target, KEY, 10, Memory(MIB).room))
        meet.desk.updates[DIGEST] = noise(10)
        await meet.links.fetch_blob(
            meet.target, DIGEST, 10, bytearray()
        )  # on the same connection: the other call is there too
        asking.cancel()
        await given_up.wait()
        assert made.cancelled()


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
                await meet.links.fetch_blob(gone, DIGEST, 10, bytearray())
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
        while not meet.desk.taken:
            with contextlib.suppress(PeerLost):  # as long as gRPC still tries the connection that broke
                await meet.links.send_part(target, key_of(data), data)
        assert [kept for *_, kept in meet.desk.taken] == [data]


async def test_an_update_that_broke_off_comes_on_from_there(tmp_path: Path) -> None:
    data = noise(4 * MIB)
    async with meeting(tmp_path) as meet, CutProxy.to(meet.called.network.port) as proxy:
        meet.desk.updates[DIGEST] = data
        endpoint = Endpoint(host="127.0.0.1", port=proxy.port)
        target = Member(worker_id=meet.called.identity.worker_id, endpoint=endpoint, share=1)
        proxy.cut_after(2 * MIB)
        came = bytearray()
        with pytest.raises(PeerLost):
            await meet.links.fetch_blob(target, DIGEST, len(data), came)
        before = len(came)
        assert MIB // 2 < before <= 2 * MIB
        received = meet.usage.received_bytes
        await meet.links.fetch_blob(meet.target, DIGEST, len(data), came)  # on another connection
        assert came == data
        assert meet.usage.received_bytes - received < len(data) - before + MIB // 4


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


async def test_a_holder_that_does_not_begin_to_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "HANGING_S", 0.3)
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        async with meeting(tmp_path) as meet:
            endpoint = Endpoint(host="127.0.0.1", port=hanging.getsockname()[1])
            target = Member(worker_id=meet.called.identity.worker_id, endpoint=endpoint, share=1)
            with pytest.raises(PeerLost, match=r"nothing came for 0.3 s"):
                await meet.links.fetch_blob(target, DIGEST, 10, bytearray())


async def test_a_holder_that_stops_in_the_middle_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SILENT_S", 0.3)
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(UPDATE_PIECE_BYTES + 1)
        forever = asyncio.Event()
        write = meet.called.network.rounds._write

        async def stopping(context: Any, piece: Any) -> None:
            await write(context, piece)
            if piece.payload:
                await forever.wait()

        monkeypatch.setattr(meet.called.network.rounds, "_write", stopping)
        with pytest.raises(PeerLost, match=r"nothing came for 0.3 s"):
            await meet.fetch(DIGEST, UPDATE_PIECE_BYTES + 1)


async def test_a_piece_with_nothing_in_it_is_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(10)
        write = meet.called.network.rounds._write

        async def dawdling(context: Any, piece: Any) -> None:
            await write(context, type(piece)())

        monkeypatch.setattr(meet.called.network.rounds, "_write", dawdling)
        with pytest.raises(PartInvalid, match="with nothing in it"):
            await meet.fetch(DIGEST, 10)


# Beside parts.


async def test_the_first_update_for_a_worker_sets_out_at_once_and_others_behind_parts(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.updates[DIGEST] = noise(10)
        loop = asyncio.get_running_loop()

        async def update(key: UpdateKey) -> bytes:
            meet.desk.to_come[key] = loop.create_future()
            meet.desk.to_come[key].set_result(DIGEST)
            return (await meet.links.await_update(meet.target, key, 10, Memory(MIB).room))[1]

        with meet.called.network.rounds.line.carrying_part() as leaves:
            leaves(100 * MIB)
            assert await update(KEY) == noise(10)
            behind = asyncio.create_task(update(KEY._replace(span=2)))
            assert await update(KEY._replace(round=4)) == noise(10)
            assert not behind.done()
            leaves(0)
            assert await behind == noise(10)
