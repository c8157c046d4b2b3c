"""Two workers of different clusters with real servers and mutual TLS, one of which calls the other."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tls_members import Node, channel_as, listening

from legion.comm.api import Usage
from legion.comm.line import Line
from legion.comm.rounds import SERVICE, RoundLinks
from legion.errors import (
    LegionError,
)
from legion.ids import ClusterId, RunId, WorkerId
from legion.layout import Layout
from legion.messages import Member
from legion.proto.peer_pb2 import PartPiece
from legion.rounds import Blocks, PartKey, ResidualKey, UpdateKey

METHODS = ("SendPart", "SendResidual", "FetchBlob", "AwaitUpdate")
DIGEST = "5" * 64
MIB = 1 << 20


@dataclass
class RecordingDesk:
    """What a worker offers to others, kept in memory; `refusal` is raised for the part that has come."""

    known: set[WorkerId]
    updates: dict[str, bytes] = field(default_factory=dict)
    taken: list[tuple[WorkerId, PartKey, bytes]] = field(default_factory=list)
    admitted: list[PartKey] = field(default_factory=list)
    residuals: list[tuple[WorkerId, ResidualKey, bytes]] = field(default_factory=list)
    to_come: dict[UpdateKey, asyncio.Future[str]] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)
    refuse_name: LegionError | None = None
    refuse_part: Exception | None = None

    def knows(self, worker: WorkerId) -> bool:
        return worker in self.known

    def turned_away(self, reason: str) -> None:
        self.counted.append(reason)

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        if self.refuse_name is not None:
            raise self.refuse_name
        self.admitted.append(key)

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        if self.refuse_part is not None:
            raise self.refuse_part
        self.taken.append((sender, key, data))

    async def admit_residual(self, sender: WorkerId, key: ResidualKey) -> None:
        if self.refuse_name is not None:
            raise self.refuse_name

    async def take_residual(self, sender: WorkerId, key: ResidualKey, data: bytes) -> None:
        self.residuals.append((sender, key, data))

    def update(self, sha256: str) -> memoryview | None:
        return memoryview(self.updates[sha256]) if sha256 in self.updates else None

    async def made(self, key: UpdateKey) -> str:
        return await self.to_come[key]


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
        data = bytearray()
        await self.links.fetch_blob(self.target, sha256, size_bytes, data)
        return bytes(data)


@contextlib.asynccontextmanager
async def meeting(folder: Path) -> AsyncIterator[Meeting]:
    async with listening(folder, Layout((3 * 4096,), (1, 1))) as (caller, called):
        desk = RecordingDesk({caller.identity.worker_id})
        called.network.rounds.desk = desk
        usage = Usage()
        links = RoundLinks(caller.identity, usage, Line())
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
