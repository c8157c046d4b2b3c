"""Members with real servers and mutual TLS, all on the test's own event loop, and channels to knock at their doors."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from identities import issue

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.comm.api import Group
from legion.comm.credentials import channel_credentials
from legion.comm.frames import encode_frame, frames_of
from legion.comm.member import Member
from legion.comm.network import PeerNetwork, listen
from legion.comm.server import EPOCH_KEY
from legion.errors import LegionError
from legion.identity import Identity
from legion.ids import Epoch, Rank, host_name
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint
from legion.proto.peer_pb2 import PartHeader

EPOCH = 3
LAYOUT = Layout((2 * CHUNK,), (1, 1))  # one unit, one chunk each


@dataclass
class Node:
    """One member: its server listens; whether it has joined is the test's to say."""

    identity: Identity
    network: PeerNetwork
    member: Member

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.network.port)


def member_of(identities: list[Identity], rank: int, layout: Layout, *, ordered: bool = False) -> Member:
    group = Group(Epoch(EPOCH), tuple(identity.worker_id for identity in identities), Rank(rank))
    plain = by_name("none")
    return Member(group, layout, ordered=ordered, weights=plain, gradients=plain)


@contextlib.asynccontextmanager
async def listening(folder: Path, layout: Layout = LAYOUT, *, ordered: bool = False) -> AsyncIterator[list[Node]]:
    """Every member of the layout listens and knows no plan yet."""
    identities = issue(folder, layout.world)
    nodes = []
    for rank, identity in enumerate(identities):
        network = await listen(identity, "127.0.0.1", 0)
        nodes.append(Node(identity, network, member_of(identities, rank, layout, ordered=ordered)))
    try:
        yield nodes
    finally:
        await asyncio.gather(*(node.network.leave("complete") for node in nodes))


def endpoints_of(nodes: Iterable[Node]) -> dict[Rank, Endpoint]:
    return {Rank(rank): node.endpoint for rank, node in enumerate(nodes)}


@contextlib.asynccontextmanager
async def joined(folder: Path, layout: Layout = LAYOUT, *, ordered: bool = False) -> AsyncIterator[list[Node]]:
    """Every member has joined the plan."""
    async with listening(folder, layout, ordered=ordered) as nodes, contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.network.joined(node.member, endpoints_of(nodes)))
        yield nodes


@contextlib.asynccontextmanager
async def channel_to(target: Node, credentials: grpc.ChannelCredentials) -> AsyncIterator[Any]:
    options = [
        ("grpc.ssl_target_name_override", host_name(target.identity.worker_id)),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", 64 << 20),
        ("grpc.enable_retries", 0),
    ]
    channel = grpc.aio.secure_channel(f"127.0.0.1:{target.network.port}", credentials, options=options)
    try:
        yield channel
    finally:
        await channel.close()


def channel_as(caller: Identity, target: Node) -> contextlib.AbstractAsyncContextManager[Any]:
    return channel_to(target, channel_credentials(caller))


def metadata(epoch: int | str = EPOCH) -> tuple[tuple[str, str], ...]:
    return ((EPOCH_KEY, str(epoch)),)


class Endless:
    """A request body that never ends, 1 MiB at a time; counts what the transport took from it."""

    def __init__(self) -> None:
        self.taken = 0

    async def frames(self) -> AsyncIterator[bytes]:
        payload = bytes(1 << 20)
        frame = encode_frame(payload, zlib.crc32(payload))
        while True:
            self.taken += 1
            yield frame


def gradient_frames(values: Floats, batches: tuple[int, ...] = (0,), **header: Any) -> Iterator[bytes]:
    """A well-formed gradient of unit 0, step 0, unless `header` says otherwise."""
    fields = {"step": 0, "unit": 0, "batches": batches, "tokens": 10} | header
    return frames_of(PartHeader(**fields), by_name("none"), values)


async def stream(frames: Iterable[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


def open_unit(node: Node, batch_count: int = 4, *, step: int = 0, unit: int = 0) -> Floats:
    """Room for the node's part of the unit's gradient."""
    out = np.full(len(node.member.layout.bounds(unit, node.member.group.rank)), np.nan, dtype=np.float32)
    node.member.mailbox.open(step, unit, batch_count, out)
    return out


async def failed(node: Node) -> LegionError:
    """The failure of a member, once it has one."""
    with pytest.raises(LegionError) as caught:
        await node.member.changes.until(lambda: False)
    return caught.value
