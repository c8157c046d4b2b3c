"""What a worker answers to others that measure the link to it: pings, and bursts up and down.

Any caller with a certificate of the run may measure. What that costs is bounded: one burst at a time, whoever asks for
it, none while parts are on their way, and so many bytes in an hour for each caller and for all. Who is turned away is
told why, and measures nothing: a refusal is no sample. Bursts keep to the volunteer's limits; to somebody of the same
private network, to those that were chosen by hand, as what stays in the house takes nothing of the line out of it.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import grpc

from legion.burst import rate
from legion.comm.bucket import Valve
from legion.comm.line import Line
from legion.comm.server import parsed, single
from legion.errors import LegionError, PartInvalid, Unavailable
from legion.ids import WorkerId, host_name
from legion.links import LINK_BURST_BYTES, in_one_network
from legion.proto.peer_pb2 import BurstPiece, BurstReply, BurstRequest, Pong

logger = logging.getLogger(__name__)

SERVICE: Final = "/legion.peer.v1.Links/"
PIECE_BYTES: Final = 1 << 16
BURST_S: Final = 10.0  # of a burst: who is slower than 100 kbit/s carries no bulk
HOUR_S: Final = 3600.0
CALLERS_BYTES: Final = 32 << 20  # in an hour, both ways together; a look at a fast link takes 15 MiB
ALL_BYTES: Final = 256 << 20
Context = Any  # grpc.aio.ServicerContext; grpcio ships no types


class Budget:
    """What bursts may cost in any hour. Not for several threads."""

    def __init__(self, callers_bytes: int = CALLERS_BYTES, all_bytes: int = ALL_BYTES) -> None:
        self._callers_bytes = callers_bytes
        self._all_bytes = all_bytes
        self._spent: deque[tuple[float, WorkerId, int]] = deque()  # the newest last

    def require(self, caller: WorkerId, size_bytes: int, now: float) -> None:
        """Unavailable when nothing is left for so much."""
        while self._spent and self._spent[0][0] <= now - HOUR_S:
            self._spent.popleft()
        if sum(size for _, who, size in self._spent if who == caller) + size_bytes > self._callers_bytes:
            raise Unavailable("this worker has measured enough for one hour", hint="Try again in an hour.")
        if sum(size for _, _, size in self._spent) + size_bytes > self._all_bytes:
            raise Unavailable("others have measured enough for one hour", hint="Try again in an hour.")

    def spend(self, caller: WorkerId, size_bytes: int, now: float) -> None:
        self._spent.append((now, caller, size_bytes))


class House:
    """The line inside the house: what its volunteer chose by hand holds here too, a share of the way out does not."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.upload, self.download = Valve(), Valve()
        self.open = True  # for bursts; not where the network is metered, or was to rest

    def up(self, host: str) -> Valve:
        """For what goes to this host."""
        return self.upload if in_one_network(host) else self.line.upload

    def down(self, host: str) -> Valve:
        return self.download if in_one_network(host) else self.line.download


class LinkService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers from the start: no plan is needed."""

    def __init__(self, line: Line, clock: Callable[[], float] = time.monotonic) -> None:
        self.house = House(line)
        self.burst = asyncio.Lock()  # held for the time of a burst, also of our own
        self.budget = Budget()
        self._clock = clock
        self._handlers = {
            SERVICE + "Ping": grpc.stream_unary_rpc_method_handler(self._answer(self._ping)),
            SERVICE + "Take": grpc.stream_unary_rpc_method_handler(self._answer(self._take)),
            SERVICE + "Give": grpc.stream_stream_rpc_method_handler(self._answer(self._give)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def require_room(self) -> None:
        """Unavailable when a burst would be in somebody's way."""
        if not self.house.open:
            raise Unavailable("this worker's network is not to be measured now", hint="Try again later.")
        if self.burst.locked() or self.house.line.carries_parts:
            raise Unavailable("this worker's line is in use", hint="Try again in a moment.")

    def _answer(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answered(requests: AsyncIterator[bytes], context: Context) -> Any:
            caller = caller_of(context)
            try:
                return await handler(caller, requests, context)
            except LegionError as error:
                await _refuse(context, error)
            except grpc.aio.InternalError as error:
                # The connection is gone: nobody is left to tell. As an error gRPC would log it with a traceback.
                raise asyncio.CancelledError from error

        return answered

    async def _ping(self, caller: WorkerId, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await single(requests, Pong)
        return Pong().SerializeToString()

    async def _take(self, caller: WorkerId, requests: AsyncIterator[bytes], context: Context) -> bytes:
        self.require_room()
        self.budget.require(caller, LINK_BURST_BYTES, self._clock())
        valve, arrivals, received = self.house.down(host_of(context)), list[tuple[float, int]](), 0
        async with self.burst:
            try:
                async with asyncio.timeout(BURST_S):
                    async for message in requests:
                        await valve.through(len(message))
                        received += len(parsed(BurstPiece, message).payload)
                        if received > LINK_BURST_BYTES:
                            raise PartInvalid(f"a burst has {LINK_BURST_BYTES} bytes at most")
                        arrivals.append((self._clock(), len(message)))
            except TimeoutError:
                raise PartInvalid(f"{received} bytes of a burst came in {BURST_S:g} s") from None
            finally:
                self.budget.spend(caller, received, self._clock())
        return BurstReply(received_bytes=received, bytes_per_s=rate(arrivals) or 0.0).SerializeToString()

    async def _give(self, caller: WorkerId, requests: AsyncIterator[bytes], context: Context) -> None:
        wanted = await single(requests, BurstRequest)
        if wanted.size_bytes > LINK_BURST_BYTES:
            raise PartInvalid(f"a burst has {LINK_BURST_BYTES} bytes at most")
        self.require_room()
        self.budget.require(caller, wanted.size_bytes, self._clock())
        self.budget.spend(caller, wanted.size_bytes, self._clock())
        valve = self.house.up(host_of(context))
        async with self.burst:
            try:
                async with asyncio.timeout(BURST_S):
                    for message in pieces(wanted.size_bytes):
                        await valve.through(len(message))
                        await context.write(message)
            except TimeoutError:
                raise PartInvalid(f"a burst was not taken in {BURST_S:g} s") from None


def pieces(size_bytes: int) -> list[bytes]:
    """A burst of noise, which nobody on the way compresses."""
    noise = os.urandom(size_bytes)
    cut = (noise[start : start + PIECE_BYTES] for start in range(0, size_bytes, PIECE_BYTES))
    return [BurstPiece(payload=payload).SerializeToString() for payload in cut]


def caller_of(context: Context) -> WorkerId:
    """By its certificate, which the handshake has checked; empty for one that is no worker's."""
    for name in context.auth_context().get("x509_subject_alternative_name", ()):
        worker = WorkerId(name.decode().partition(".")[0])
        if host_name(worker) == name.decode():
            return worker
    return WorkerId("")


def host_of(context: Context) -> str:
    """Where a call comes from: of `ipv4:10.0.0.1:5000` or `ipv6:%5B::1%5D:5000` the address."""
    _, _, address = unquote(context.peer()).partition(":")
    return address.rpartition(":")[0].strip("[]")


async def _refuse(context: Context, error: LegionError) -> NoReturn:
    code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, PartInvalid) else grpc.StatusCode.RESOURCE_EXHAUSTED
    await context.abort(code, str(error))
    raise AssertionError("abort raises")
