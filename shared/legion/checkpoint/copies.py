"""Restore points: files that members of a cluster keep for one another, and how they travel.

Every member writes what it holds to a file of its own, and a copy of it goes to the next member's disk. Whoever is left
when one is lost has all of it: its own, and the copy of the member before it.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import grpc

from legion.checkpoint.storage import storing
from legion.comm.member import Member
from legion.comm.server import EPOCH_KEY, PeerService, parsed, single
from legion.errors import NotFound, PartInvalid, PeerLost, StorageFailed
from legion.ids import Epoch, Rank, Step, WorkerId
from legion.proto import peer_pb2
from legion.proto.peer_pb2 import CopyPiece, CopyRequest, Receipt

logger = logging.getLogger(__name__)

SERVICE: Final = "/legion.peer.v1.Copies/"
PIECE_BYTES: Final = 1 << 20
SUFFIX: Final = ".point"
MOST_BYTES_EACH: Final = 64  # of an element of the model: far above what a member ever keeps of one
HEADER_BYTES: Final = 1 << 22
RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # pauses between tries; the last repeats
READ_TRIES: Final = 20
Context = Any  # grpc.aio.ServicerContext; grpcio ships no types


class PointName(NamedTuple):
    """Whose slice, after which of the cluster's steps; ranks are those of the epoch's plan."""

    epoch: Epoch
    step: Step
    rank: Rank

    @property
    def file_name(self) -> str:
        return f"{self.epoch}-{self.step}-{self.rank}{SUFFIX}"

    @classmethod
    def of_file(cls, path: Path) -> Self:
        epoch, step, rank = map(int, path.stem.split("-"))
        return cls(Epoch(epoch), Step(step), Rank(rank))

    @classmethod
    def of_message(cls, message: peer_pb2.CopyName) -> Self:
        return cls(Epoch(message.epoch), Step(message.step), Rank(message.rank))

    @property
    def message(self) -> peer_pb2.CopyName:
        return peer_pb2.CopyName(epoch=self.epoch, step=self.step, rank=self.rank)


class PointFolder:
    """The files of one engine. Safe to use from any thread: the folder itself says what is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, name: PointName) -> Path:
        return self._path / name.file_name

    def make(self) -> None:
        """For the first file. StorageFailed."""
        with storing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)

    def held(self) -> list[PointName]:
        """Whole ones, the oldest first."""
        return sorted(PointName.of_file(path) for path in self._path.glob(f"*{SUFFIX}"))

    def forget_before(self, epoch: Epoch, step: Step) -> None:
        for name in self.held():
            if name[:2] < (epoch, step):
                self.path(name).unlink(missing_ok=True)

    def pieces(self, name: PointName, offset: int = 0, size_bytes: int = 0) -> Iterator[bytes]:
        """`size_bytes` of the file from `offset` on; 0: to its end. NotFound."""
        try:
            with self.path(name).open("rb") as file:
                file.seek(offset)
                left = size_bytes or self.path(name).stat().st_size - offset
                while left > 0 and (piece := file.read(min(left, PIECE_BYTES))):
                    left -= len(piece)
                    yield piece
        except FileNotFoundError:
            raise NotFound(f"no restore point {name.file_name} is here") from None
        except OSError as error:
            raise StorageFailed(f"{self.path(name)} cannot be read: {error.strerror}") from error


class CopyService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """What a member answers. Callers are known as for `PeerService`."""

    def __init__(self, peers: PeerService, folder: PointFolder) -> None:
        async def keep(member: Member, caller: Rank, requests: AsyncIterator[bytes], _: Context) -> bytes:
            return await _keep(folder, member, caller, requests)

        async def read(member: Member, _: Rank, requests: AsyncIterator[bytes], context: Context) -> None:
            await _read(folder, member, requests, context)

        self._handlers = {
            SERVICE + "Keep": grpc.stream_unary_rpc_method_handler(peers.answer(keep)),
            SERVICE + "Read": grpc.stream_stream_rpc_method_handler(peers.answer(read)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


async def _keep(folder: PointFolder, member: Member, caller: Rank, requests: AsyncIterator[bytes]) -> bytes:
    """Of the member before us, in this plan. The reply says that the copy is whole."""
    first = parsed(CopyPiece, await anext(requests, b""))
    name = PointName.of_message(first.name)
    for_us = (caller + 1) % member.group.world == member.group.rank
    if not for_us or name.rank != caller or name.epoch != member.group.epoch:
        raise PartInvalid(f"a copy of {name.file_name} is not for this member")
    most = MOST_BYTES_EACH * member.layout.owned(caller) + HEADER_BYTES
    if not 0 < first.size_bytes <= most:
        raise PartInvalid(f"a restore point of {first.size_bytes} bytes, at most {most} are expected")
    folder.make()
    path = folder.path(name)
    partial = path.with_suffix(".partial")
    with storing(path):
        try:
            with partial.open("wb") as file:
                await _receive(file, first.size_bytes, member, requests)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return Receipt().SerializeToString()


async def _receive(file: BufferedWriter, size_bytes: int, member: Member, requests: AsyncIterator[bytes]) -> None:
    left = size_bytes
    async for message in requests:
        member.usage.received_bytes += len(message)
        await member.line.download.through(len(message))
        payload = parsed(CopyPiece, message).payload
        left -= len(payload)
        if left < 0:
            break
        await asyncio.to_thread(file.write, payload)  # a disk may be slow, and the loop serves a step
    if left:
        raise PartInvalid(f"a restore point of {size_bytes} bytes came with {size_bytes - left}")


async def _read(folder: PointFolder, member: Member, requests: AsyncIterator[bytes], context: Context) -> None:
    """What another member needs of a restore point, of this plan or of one before it."""
    wanted = await single(requests, CopyRequest)
    pieces = folder.pieces(PointName.of_message(wanted.name), wanted.offset, wanted.size_bytes)
    for payload in pieces:
        message = CopyPiece(payload=payload).SerializeToString()
        await member.line.upload.through(len(message))
        await context.write(message)
        member.usage.sent_bytes += len(message)


# What it asks of others.


class CopyLink:
    """To one other member, over the channel that its other calls use."""

    def __init__(self, channel: Any, peer: WorkerId, member: Member) -> None:
        self._keep = channel.stream_unary(SERVICE + "Keep")
        self._read = channel.unary_stream(SERVICE + "Read")
        self._metadata = ((EPOCH_KEY, str(member.group.epoch)),)
        self._peer = peer
        self._member = member

    async def keep(self, folder: PointFolder, name: PointName) -> None:
        """Until the peer has the copy. The member's failure ends that."""
        for tries in itertools.count():
            if self._member.changes.failure is not None:
                raise self._member.changes.failure
            try:
                await self._keep(self._pieces(folder, name), metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                logger.info("copy not kept peer=%s point=%s why=%s", self._peer, name.file_name, error.details())
            else:
                return
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

    async def _pieces(self, folder: PointFolder, name: PointName) -> AsyncIterator[bytes]:
        size_bytes = folder.path(name).stat().st_size
        yield CopyPiece(name=name.message, size_bytes=size_bytes).SerializeToString()
        for payload in folder.pieces(name):
            message = CopyPiece(payload=payload).SerializeToString()
            await self._member.line.upload.through(len(message))
            self._member.usage.sent_bytes += len(message)
            yield message

    async def read(self, name: PointName, offset: int, size_bytes: int) -> bytes:
        """Some of a file that the peer has. PeerLost when it does not give it."""
        request = CopyRequest(name=name.message, offset=offset, size_bytes=size_bytes).SerializeToString()
        for tries in range(READ_TRIES):
            data = bytearray()
            try:
                async for message in self._read(request, metadata=self._metadata):
                    data += parsed(CopyPiece, message).payload
            except grpc.aio.AioRpcError as error:  # it may not have heard of our plan yet
                if error.code() is not grpc.StatusCode.UNAVAILABLE or self._member.changes.failure is not None:
                    raise PeerLost(f"{self._peer} does not give {name.file_name}: {error.details()}") from error
            else:
                if len(data) != size_bytes:
                    raise PartInvalid(f"{len(data)} of {size_bytes} bytes of {name.file_name} came from {self._peer}")
                self._member.usage.received_bytes += len(data)
                return bytes(data)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
        raise PeerLost(f"{self._peer} does not give {name.file_name}")
