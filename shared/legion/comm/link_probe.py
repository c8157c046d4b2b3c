"""A worker's looks at its links to others: pings first, then bursts that grow until they tell something.

A look at one peer gives BURSTS samples, so that one of them may be an exception. A peer that does not answer pings is
unreachable; one that does, but to or from which no burst passes, has a link that is dead for bulk: as one with a broken
path MTU, or with a middlebox that lets handshakes pass.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc

from legion.burst import rate
from legion.comm.credentials import CHANNEL_OPTIONS, channel_credentials
from legion.comm.links import BURST_S, PIECE_BYTES, SERVICE, LinkService, pieces
from legion.comm.server import Parsed, parsed
from legion.errors import LegionError, PartInvalid, PeerLost, Unavailable
from legion.identity import Identity
from legion.ids import host_name
from legion.links import LINK_BURST_BYTES, LinkSample
from legion.messages import LinkPeer
from legion.proto.peer_pb2 import BurstPiece, BurstReply, BurstRequest, Pong

logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0  # for the first ping, with the handshake
PING_S: Final = 5.0
PINGS: Final = 5  # of a sample: the shortest counts, the others waited for somebody's processor
BURSTS: Final = 3
FIRST_BYTES: Final = 1 << 17
GROWTH: Final = 4  # of a burst, as long as one takes less than SHORT_S
SHORT_S: Final = 0.25
TRIES: Final = 8  # of a burst that somebody else's is in the way of
Reply = TypeVar("Reply", bound=Parsed)
T = TypeVar("T")


class LinkProbe:
    """Looks at one link after the other. On the loop."""

    def __init__(self, identity: Identity, service: LinkService, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._service = service
        self._clock = clock

    async def look(self, peer: LinkPeer) -> list[LinkSample]:
        """What is found of the link. Unavailable when the peer, or we ourselves, cannot measure now."""
        try:
            async with self._connected(peer) as way:
                rtt_s = await way.ping(CONNECT_S)
                try:
                    up = await self._grown(way.send)
                    down = await self._grown(way.receive)
                except PeerLost as error:
                    logger.info("burst lost peer=%s why=%s", peer.worker_id, error)
                    return await self._without_bulk(peer)
        except PeerLost as error:
            logger.info("peer not reached peer=%s why=%s", peer.worker_id, error)
            return [LinkSample(peer=peer.worker_id, outcome="unreachable")]
        return [
            LinkSample(peer=peer.worker_id, rtt_s=rtt_s, up_bytes_per_s=sent, down_bytes_per_s=received)
            for sent, received in zip(up, down, strict=True)
        ]

    async def _without_bulk(self, peer: LinkPeer) -> list[LinkSample]:
        """By another connection, as the burst that is stuck holds up the one before: is the peer still there?"""
        async with self._connected(peer) as way:
            rtt_s = await way.ping(CONNECT_S)
        return [LinkSample(peer=peer.worker_id, outcome="no_bulk", rtt_s=rtt_s)]

    async def _grown(self, burst: Callable[[int], Awaitable[float]]) -> list[float]:
        """The rates of the last bursts, which are as large as they need to be."""
        size_bytes = FIRST_BYTES
        while True:
            started = self._clock()
            first = await self._when_free(burst, size_bytes)
            if self._clock() - started >= SHORT_S or size_bytes >= LINK_BURST_BYTES:
                return [first, *[await self._when_free(burst, size_bytes) for _ in range(BURSTS - 1)]]
            size_bytes = min(LINK_BURST_BYTES, size_bytes * GROWTH)

    async def _when_free(self, burst: Callable[[int], Awaitable[float]], size_bytes: int) -> float:
        """Two that measure each other would turn each other away for ever: each waits for a time of its own."""
        for number in range(TRIES):
            try:
                self._service.require_room()
                async with self._service.burst:
                    return await burst(size_bytes)
            except Unavailable as error:
                refused = error
                await asyncio.sleep(random.uniform(0.05, 0.2) * (number + 1))
        raise refused

    @contextlib.asynccontextmanager
    async def _connected(self, peer: LinkPeer) -> AsyncIterator["Way"]:
        channel = grpc.aio.secure_channel(
            f"{peer.endpoint.host}:{peer.endpoint.port}",
            channel_credentials(self._identity),
            options=[*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host_name(peer.worker_id))],
        )
        try:
            yield Way(channel, peer, self._service, self._clock)
        finally:
            await channel.close()


class Way:
    """One connection to a peer."""

    def __init__(self, channel: Any, peer: LinkPeer, service: LinkService, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._peer = peer
        self._house = service.house
        self._clock = clock
        self._ping = channel.unary_unary(SERVICE + "Ping")

    async def ping(self, within_s: float) -> float:
        """The shortest round trip of some, in s, with a connection that there was before."""
        await self._answered(Pong, self._ping(Pong().SerializeToString(), wait_for_ready=True, timeout=within_s))
        found = []
        for _ in range(PINGS):
            started = self._clock()
            await self._answered(Pong, self._ping(Pong().SerializeToString(), timeout=PING_S))
            found.append(self._clock() - started)
        return max(min(found), 1e-6)

    async def send(self, size_bytes: int) -> float:
        """Bytes/s of a burst, by the other end's clock where that can tell."""
        valve = self._house.up(self._peer.endpoint.host)

        async def leaving() -> AsyncIterator[bytes]:
            for message in pieces(size_bytes):
                await valve.through(len(message))
                yield message

        started = self._clock()
        call = self._channel.stream_unary(SERVICE + "Take")(leaving(), timeout=2 * BURST_S)
        reply = await self._answered(BurstReply, call)
        if reply.received_bytes != size_bytes:
            raise PeerLost(f"{self._peer.worker_id}: {reply.received_bytes} of {size_bytes} bytes came")
        return reply.bytes_per_s or size_bytes / max(self._clock() - started, 1e-3)

    async def receive(self, size_bytes: int) -> float:
        valve, arrivals = self._house.down(self._peer.endpoint.host), list[tuple[float, int]]()
        started = self._clock()
        call = self._channel.unary_stream(SERVICE + "Give")(
            BurstRequest(size_bytes=size_bytes).SerializeToString(), timeout=2 * BURST_S
        )
        try:
            while (message := await self._told(call.read())) is not grpc.aio.EOF:
                await valve.through(len(message))
                arrivals.append((self._clock(), len(self._message(BurstPiece, message).payload)))
                if len(message) > 2 * PIECE_BYTES or sum(size for _, size in arrivals) > size_bytes:
                    raise PeerLost(f"{self._peer.worker_id}: more of a burst came than was asked for")
        finally:
            call.cancel()
        if sum(size for _, size in arrivals) != size_bytes:
            raise PeerLost(f"{self._peer.worker_id}: a burst of {size_bytes} bytes did not come whole")
        return rate(arrivals) or size_bytes / max(self._clock() - started, 1e-3)

    async def _answered(self, kind: type[Reply], call: Awaitable[Any]) -> Reply:
        return self._message(kind, await self._told(call))

    def _message(self, kind: type[Reply], message: bytes) -> Reply:
        try:
            return parsed(kind, message)
        except PartInvalid as error:
            raise PeerLost(f"{self._peer.worker_id}: {error}") from error

    async def _told(self, call: Awaitable[T]) -> T:
        """A peer's refusal as Unavailable, anything else that goes wrong as PeerLost."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._named(error) from error

    def _named(self, error: grpc.aio.AioRpcError) -> LegionError:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unavailable(f"{self._peer.worker_id}: {error.details()}", hint="Try again later.")
        return PeerLost(f"{self._peer.worker_id}: {error.code().name.lower()}")
