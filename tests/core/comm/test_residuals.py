"""Residuals of reducers that leave, over mutual TLS: what arrives, and what is not read."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from meeting import MIB, Endless, Meeting, meeting, noise, opening, refusal
from tls_members import channel_as

from legion.comm.rounds import PIECE_BYTES, SERVICE
from legion.errors import PartInvalid, PartRefused, PeerRefused
from legion.ids import RunId
from legion.rounds import ResidualKey


def key_of(data: bytes, **changes: Any) -> ResidualKey:
    fields: dict[str, Any] = {
        "run_id": RunId("run-test"),
        "round": 3,
        "span": 1,
        "term": 0,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return ResidualKey(**(fields | changes))


async def send(meet: Meeting, data: bytes, **changes: Any) -> None:
    await meet.links.send_residual(meet.target, key_of(data, **changes), data)


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7])
async def test_a_residual_arrives_whole(tmp_path: Path, size: int) -> None:
    data = noise(size)
    async with meeting(tmp_path) as meet:
        await send(meet, data)
        assert meet.desk.residuals == [(meet.caller.identity.worker_id, key_of(data), data)]
        assert meet.called.network.rounds.usage.received_bytes == meet.usage.sent_bytes


async def test_a_stranger_is_told_so(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.known = set()
        with pytest.raises(PeerRefused, match="not a worker of this round"):
            await send(meet, noise(9))
        assert (meet.desk.residuals, meet.desk.counted) == ([], ["stranger"])


async def test_a_refusal_comes_with_its_reason(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet:
        meet.desk.refuse_name = PartRefused("that span is not to be reduced here", reason="reducer")
        with pytest.raises(PartRefused, match="not to be reduced here"):
            await send(meet, noise(MIB))
        assert meet.desk.residuals == []


@pytest.mark.parametrize("named", [8, 10, MIB])
async def test_shorter_or_longer_than_its_name_says_is_not_taken(tmp_path: Path, named: int) -> None:
    async with meeting(tmp_path) as meet:
        with pytest.raises(PartInvalid, match=f"for a part of {named}"):
            await send(meet, noise(9), size_bytes=named)
        assert (meet.desk.residuals, meet.desk.counted) == ([], ["invalid"])


async def test_of_one_that_never_ends_no_more_is_read_than_its_name_says(tmp_path: Path) -> None:
    async with meeting(tmp_path) as meet, channel_as(meet.caller.identity, meet.called) as channel:
        body = Endless(opening(key_of(noise(2 * MIB)).model_dump_json().encode()))
        error = await refusal(channel.stream_unary(SERVICE + "SendResidual")(body.pieces()))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
        assert body.taken <= 2 + 1 + 16  # and what fits in the transport's windows
        assert meet.desk.residuals == []


@pytest.mark.parametrize("name", [b"", b"{", b'{"round": 1}', b'{"run_id":"r"}' + b" " * 70_000])
async def test_a_name_that_cannot_be_used(tmp_path: Path, name: bytes) -> None:
    async def pieces() -> Any:
        yield opening(name)

    async with meeting(tmp_path) as meet, channel_as(meet.caller.identity, meet.called) as channel:
        error = await refusal(channel.stream_unary(SERVICE + "SendResidual")(pieces()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert meet.desk.counted == ["invalid"]


async def test_who_gives_up_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side has read the name, and never answers."""
    async with meeting(tmp_path) as meet:
        asked = asyncio.Event()

        async def hang(*_: object) -> None:
            asked.set()
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(meet.desk, "admit_residual", hang)
        sending = asyncio.ensure_future(send(meet, noise(3 * MIB)))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
