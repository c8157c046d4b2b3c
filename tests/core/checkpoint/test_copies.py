"""Restore points on their way between members, over real TLS: whole at the next one's, and read back in ranges."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from identities import issue

from legion.checkpoint.copies import PIECE_BYTES, CopyLink, CopyService, PointFolder, PointName
from legion.codec.registry import by_name
from legion.comm.api import Group
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.errors import NotFound, PeerLost
from legion.ids import Epoch, Rank, Step
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint
from legion.proto.peer_pb2 import CopyPiece

EPOCH = Epoch(3)
NAME = PointName(EPOCH, Step(8), Rank(0))


@dataclass
class Node:
    network: PeerNetwork
    member: Member
    folder: PointFolder
    links: dict[Rank, CopyLink]
    channels: dict[Rank, Any]


@contextlib.asynccontextmanager
async def three(folder: Path) -> AsyncIterator[list[Node]]:
    """Members of one plan, each with a folder of its own."""
    layout, plain = Layout((3 * CHUNK,), (1, 1, 1)), by_name("none")
    identities = issue(folder / "authority", 3)
    workers = tuple(identity.worker_id for identity in identities)
    nodes = []
    for rank, identity in enumerate(identities):
        points = PointFolder(folder / str(rank))
        network = await listen(identity, "127.0.0.1", 0, lambda peers, points=points: (CopyService(peers, points),))  # type: ignore[misc]
        member = Member(Group(EPOCH, workers, Rank(rank)), layout, ordered=False, weights=plain, gradients=plain)
        nodes.append(Node(network, member, points, {}, {}))
    endpoints = {Rank(r): Endpoint(host="127.0.0.1", port=node.network.port) for r, node in enumerate(nodes)}
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            channels = await stack.enter_async_context(node.network.joined(node.member, endpoints))
            node.channels = dict(channels)
            node.links = {rank: CopyLink(channel, workers[rank], node.member) for rank, channel in channels.items()}
        yield nodes
        await asyncio.gather(*(node.network.leave("complete") for node in nodes))


def written(folder: PointFolder, name: PointName, data: bytes) -> None:
    folder.make()
    folder.path(name).write_bytes(data)


async def test_a_copy_is_whole_at_the_next_member(tmp_path: Path) -> None:
    data = bytes(range(256)) * (5 * PIECE_BYTES // 512)  # two and a half pieces
    async with three(tmp_path) as (first, second, _):
        written(first.folder, NAME, data)
        await first.links[Rank(1)].keep(first.folder, NAME)
        assert second.folder.held() == [NAME]
        assert second.folder.path(NAME).read_bytes() == data
        assert first.member.usage.sent_bytes > len(data)
        assert second.member.usage.received_bytes > len(data)


async def test_any_member_reads_what_it_needs(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 * PIECE_BYTES // 256)
    async with three(tmp_path) as (first, _, third):
        written(first.folder, NAME, data)
        link = third.links[Rank(0)]
        for offset, size in ((0, 8), (5, PIECE_BYTES + 3), (len(data) - 1, 1)):
            assert await link.read(NAME, offset, size) == data[offset : offset + size]
        with pytest.raises(PeerLost, match="no restore point 3-9-0"):
            await link.read(NAME._replace(step=Step(9)), 0, 1)


@pytest.mark.parametrize(
    ("rank", "epoch", "size"), [(1, 3, 4), (0, 2, 4), (0, 3, 0), (0, 3, 1 << 40)], ids=["rank", "epoch", "none", "huge"]
)
async def test_a_copy_that_is_not_for_us_is_not_kept(tmp_path: Path, rank: int, epoch: int, size: int) -> None:
    name = PointName(Epoch(epoch), Step(8), Rank(rank))
    async with three(tmp_path) as (first, second, _):
        pieces = [CopyPiece(name=name.message, size_bytes=size), CopyPiece(payload=b"four")]
        status = await refused(first, Rank(1), pieces)
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert second.folder.held() == []


async def test_the_copy_of_another_than_the_one_before_us_is_not_kept(tmp_path: Path) -> None:
    async with three(tmp_path) as (first, _, third):
        pieces = [CopyPiece(name=NAME.message, size_bytes=4), CopyPiece(payload=b"four")]
        assert await refused(first, Rank(2), pieces) is grpc.StatusCode.INVALID_ARGUMENT
        assert third.folder.held() == []


@pytest.mark.parametrize("payload", [b"", b"thr", b"five!"])
async def test_a_copy_of_another_size_than_its_name_says_leaves_nothing(tmp_path: Path, payload: bytes) -> None:
    async with three(tmp_path) as (first, _, _):
        pieces = [CopyPiece(name=NAME.message, size_bytes=4), CopyPiece(payload=payload)]
        assert await refused(first, Rank(1), pieces) is grpc.StatusCode.INVALID_ARGUMENT
        assert list((tmp_path / "1").iterdir()) == []


async def refused(sender: Node, to: Rank, pieces: list[CopyPiece]) -> Any:
    call = sender.channels[to].stream_unary("/legion.peer.v1.Copies/Keep")
    metadata = (("legion-epoch", str(EPOCH)),)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call((piece.SerializeToString() for piece in pieces), metadata=metadata)
    return error.value.code()


def test_what_is_older_than_a_point_goes(tmp_path: Path) -> None:
    folder = PointFolder(tmp_path / "points")
    assert folder.held() == []
    names = [PointName(Epoch(e), Step(s), Rank(r)) for e in (1, 2) for s in (8, 16) for r in (0, 3)]
    for name in names:
        written(folder, name, b"x")
    assert folder.held() == names
    folder.forget_before(Epoch(2), Step(16))
    assert folder.held() == names[-2:]
    with pytest.raises(NotFound):
        list(folder.pieces(names[0]))
