"""A link to another member over gRPC: how it is called, when it is tried again, and when it counts as lost.

One rule for time: every call is tried again until it succeeds or the peer is lost, and one thing decides that a
peer is lost: its watch, a call that stays open as long as the peer is there, and on which it says every second that
it lives (see `liveness`). What a peer needs time for (computing the step, taking a gradient in its turn) has no
deadline while the watch lives; weights that have begun to come have one, derived from measured speed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from legion.codec.api import Codec, Floats
from legion.codec.registry import by_wire_id
from legion.comm.api import Ballot, Batches, Verdict
from legion.comm.frames import InPlace, PartWriter, decode_opening, frames_of
from legion.comm.liveness import LOOK_S, Liveness
from legion.comm.member import Member, naming
from legion.comm.moving import MovingChannel
from legion.comm.open_call import OpenCall
from legion.comm.patience import MOVING_S, Pace, patience_s
from legion.comm.server import EPOCH_KEY, SERVICE, Parsed, message_of, parsed
from legion.errors import LegionError, PartInvalid, PeerError, PeerLost, PeerPaused, PeerRefused, by_slug
from legion.ids import Step, UnitId, WorkerId
from legion.messages import Endpoint
from legion.proto.peer_pb2 import (
    ClaimReply,
    ClaimRequest,
    FetchRequest,
    PartHeader,
    Presence,
    VerdictMessage,
    WatchRequest,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
Reply = TypeVar("Reply", bound=Parsed)
ASK_S = 0.5  # of silence, then the coordinator is asked where the peer is
FRAME_BYTES = 1 << 21  # a message that a word of life may have to wait behind
LAST_WORD_S = 1.0  # for the end of a watch, after the farewell
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # pauses between tries; the last repeats
WATCH_TRIES = 2  # a watch that has ended is tried again after as long a pause as what failed so often
COMPLETE = "complete"  # the farewell of a member that has nothing left to do
BROKEN = "broken"  # that of one whose plan cannot go on, for want of a third: it waits for another plan
PAUSED = "paused"  # that of one whose volunteer has it rest: what it did is kept, and the others go on from there


class GrpcLink:
    """See `member.Link`. `watch` must run as long as the link is used."""

    def __init__(self, channel: MovingChannel, peer: WorkerId, member: Member, *, listens: bool = False) -> None:
        """`listens`: the peer did before this plan was made; if nobody does there now, it is gone."""
        self._peer = peer
        self._member = member
        self._listens = listens
        self._channel = channel
        self._metadata = ((EPOCH_KEY, str(member.group.epoch)),)
        self._pace = Pace()
        self._complete = False  # the peer has said that it has nothing left to do
        self._met = self._away = False  # was there; is looked for
        self._asking: asyncio.TimerHandle | None = None
        self._silent_since = self._missed_at = time.monotonic()
        self._liveness = Liveness(time.monotonic())
        self._carried_bytes = 0  # the most that one message from there now may have
        self._waiting: set[asyncio.Timeout] = set()
        self._fetches = OpenCall(channel.stream_stream(SERVICE + "Fetch"), self._metadata, peer)
        self._gradients = OpenCall(channel.stream_stream(SERVICE + "SendGradient"), self._metadata, peer)
        self._claim = channel.unary_unary(SERVICE + "Claim")
        self._vote = channel.unary_unary(SERVICE + "Vote")
        self._watch = channel.unary_stream(SERVICE + "Watch")

    async def fetch(self, step: Step, unit: UnitId, out: Floats) -> None:
        request = FetchRequest(step=step, unit=unit).SerializeToString()

        async def once() -> None:
            async with self._fetches.exchange() as call:
                await call.write(request)
                self._carried_bytes = min(out.nbytes, FRAME_BYTES)
                try:
                    with naming(self._peer):
                        await self._read_part(call, step, unit, out)
                finally:
                    self._carried_bytes = 0

        async with self._fetches.turn:
            await self._persist(once)

    async def _read_part(self, call: Any, step: Step, unit: UnitId, out: Floats) -> None:
        first = await call.read()
        if first is grpc.aio.EOF:
            raise PartInvalid("no weights came")
        opening = decode_opening(first)
        header = opening.header
        if (header.step, header.unit) != (step, unit):
            raise PartInvalid(f"unit {header.unit} of step {header.step} came, not {unit} of {step}")
        started, received = time.monotonic(), len(first)
        download = self._member.line.download
        await download.through(len(first))
        try:
            writer = PartWriter(opening, by_wire_id(header.codec), InPlace(out))
            patience_s = self._pace.deadline_s(header.size_bytes) + download.least_s(header.size_bytes)
            async with asyncio.timeout(patience_s):
                while not writer.complete and (frame := await call.read()) is not grpc.aio.EOF:
                    received += len(frame)
                    self._liveness = self._liveness.heard(time.monotonic())
                    await download.through(len(frame))
                    writer.write(frame)
        except TimeoutError:
            self._pace.missed(received, time.monotonic() - started)
            raise
        finally:
            self._member.usage.received_bytes += received
        writer.finish()
        self._pace.measured(header.size_bytes, time.monotonic() - started)
        self._member.on_transfer(self._peer, header.size_bytes, time.monotonic() - started)

    async def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *values: Floats, codec: Codec | None = None
    ) -> None:
        usage, upload = self._member.usage, self._member.line.upload

        async def once() -> None:
            header = PartHeader(step=step, unit=unit, batches=batches.indices, tokens=batches.tokens)
            async with self._gradients.exchange() as call:
                with naming(self._member.me):
                    for frame in frames_of(header, codec or self._member.gradients_codec, *values):
                        await upload.through(len(frame))
                        await call.write(frame)
                        usage.sent_bytes += len(frame)
                        usage.sent_gradient_bytes += len(frame)
                if await call.read() is grpc.aio.EOF:
                    raise PartInvalid(f"{self._peer} gave no receipt for a gradient")

        async with self._gradients.turn:
            await self._persist(once)

    async def claim(self, step: Step, serial: int, batch_count: int) -> int | None:
        request = ClaimRequest(step=step, serial=serial, batch_count=batch_count).SerializeToString()
        reply = self._parsed(ClaimReply, await self._ask(self._claim, request))
        return reply.index if reply.HasField("index") else None

    async def rest(self, step: Step, batch_count: int) -> None:
        request = ClaimRequest(step=step, batch_count=batch_count, rests=True).SerializeToString()
        self._parsed(ClaimReply, await self._ask(self._claim, request))

    async def vote(self, step: Step, ballot: Ballot) -> Verdict:
        request = message_of(step, ballot).SerializeToString()
        reply = self._parsed(VerdictMessage, await self._ask(self._vote, request))
        return Verdict(
            reply.commit,
            reply.norm_squared,
            reply.loss_sum,
            reply.tokens,
            reply.reason,
            reply.ready,
            reply.late,
            reply.keep,
        )

    async def _ask(self, method: Any, request: bytes) -> bytes:
        """A question that everybody may be waiting for: it is counted, and not held back."""
        self._member.line.upload.count(len(request))
        reply: bytes = await self._persist(lambda: method(request, metadata=self._metadata))
        self._member.line.download.count(len(reply))
        return reply

    def _parsed(self, kind: type[Reply], message: bytes) -> Reply:
        with naming(self._peer):
            return parsed(kind, message)

    def abandon(self) -> None:
        """Once the member has failed or the peer has moved: what waits for the peer learns it now."""
        for patience in self._waiting:
            patience.reschedule(0.0)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Until the member fails or the peer moves, then TimeoutError.

        Cancelling gRPC's call is not enough: a write to a call cancelled before it was connected waits for ever.
        """
        async with asyncio.timeout(None) as patience:
            self._waiting.add(patience)
            try:
                return await attempt()
            finally:
                self._waiting.discard(patience)

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            if self._member.changes.failure is not None:
                raise self._member.changes.failure
            try:
                result = await self._patiently(attempt)
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.CancelledError) as error:
                # Calls under way are ended when the cluster fails; what failed is the better answer.
                if self._member.changes.failure is not None:
                    continue
                if isinstance(error, asyncio.CancelledError):
                    raise
                self._require_retryable(error)
            else:
                self._heard()
                return result
            await self._pause(tries)
            tries += 1

    async def _pause(self, tries: int) -> None:
        """Before another try; no longer than until the member fails or the peer moves."""
        with contextlib.suppress(TimeoutError):
            await self._patiently(lambda: asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)]))

    def _require_retryable(self, error: grpc.aio.AioRpcError | TimeoutError) -> None:
        mapped = peer_error(self._peer, error)
        if not mapped.retryable:
            raise mapped from error
        if self._complete:
            raise PeerLost(f"{self._peer} left before the end of the run") from error

    async def watch(self) -> None:
        """Until the peer says farewell. If it is lost, the member fails with PeerLost."""
        try:
            while self._member.changes.failure is None:
                try:
                    contact, error = await self._patiently(self._watch_once)
                except TimeoutError:  # it has moved, or our member has failed
                    continue
                if error is None:
                    return
                if contact:
                    self._heard()
                silent_s = time.monotonic() - self._silent_since
                relayed = self._channel.endpoint.relayed
                if not error.retryable or silent_s > patience_s(str(error), self._met, relayed, self._listens):
                    lost = PeerLost(f"{self._peer} cannot be reached ({error})") if error.retryable else error
                    self._lose(lost)
                    return
                self._miss()
                await self._pause(WATCH_TRIES)
        finally:
            self._have_back()

    def found(self, endpoint: Endpoint | None) -> None:
        """Where the peer is by now, as the coordinator has it; None: it is no member of the plan any more.

        What is under way is tried again at once where the peer is now: the path of before may be one that says nothing.
        """
        if endpoint is None and self._away:
            self._lose(PeerLost(f"{self._peer} cannot be reached, and has left the plan"))
        elif endpoint is not None and self._channel.move(endpoint):
            where = f"{endpoint.host}:{endpoint.port}"
            logger.info("peer moved peer=%s endpoint=%s relayed=%s", self._peer, where, endpoint.relayed)
            self._silent_since = time.monotonic()
            self._fetches.close()
            self._gradients.close()
            self.abandon()

    def _lose(self, error: LegionError) -> None:
        logger.warning("peer lost peer=%s why=%s", self._peer, error)
        self._member.changes.fail(error, peer=self._peer)

    def _miss(self) -> None:
        """The watch has ended: if it is not back soon, the coordinator is asked where the peer is."""

        def ask() -> None:
            self._away = True
            self._member.on_away(self._peer, True)

        if self._asking is None:
            self._missed_at = time.monotonic()
            self._asking = asyncio.get_running_loop().call_later(ASK_S, ask)

    def _have_back(self) -> None:
        """Or need it no more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if self._away:
            self._away = False
            self._member.on_away(self._peer, False)

    def _heard(self) -> None:
        """The peer is there, and will be missed."""
        if not self._met:
            logger.info("peer met peer=%s", self._peer)
        self._met, self._silent_since = True, time.monotonic()
        self._liveness = self._liveness.heard(self._silent_since)

    async def _watch_once(self) -> tuple[bool, LegionError | None]:
        """Whether the peer was there, and how the watch ended; None: by a farewell."""
        call = self._watch(WatchRequest().SerializeToString(), metadata=self._metadata)
        contact = False
        self._liveness = self._liveness.heard(time.monotonic())
        try:
            while (message := await self._next_word(call)) is not grpc.aio.EOF:
                contact = True
                if self._away:
                    after_s = time.monotonic() - self._missed_at
                    logger.info("peer reached again peer=%s after_s=%.3f", self._peer, after_s)
                self._have_back()
                self._heard()
                presence = self._parsed(Presence, message)
                if presence.leaving:
                    self._take_leave(presence.reason)
                    await _until_end(call)
                    return contact, None
            return contact, PeerLost(f"{self._peer} has stopped")
        except grpc.aio.AioRpcError as error:
            return contact, peer_error(self._peer, error)
        except PartInvalid as error:
            return contact, error
        finally:
            call.cancel()

    async def _next_word(self, call: Any) -> Any:
        """Of the watch. Once the peer is known, whoever says nothing for too long is lost."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=LOOK_S)
                if not reading.done():
                    self._judge()
            return reading.result()
        finally:
            reading.cancel()

    def _judge(self) -> None:
        self._liveness = looked = self._liveness.looked(time.monotonic())
        carrying_s = self._pace.takes_s(self._carried_bytes)
        if not self._met or not looked.is_lost(carrying_s) or self._member.changes.failure is not None:
            return
        limit_s = looked.limit_s(carrying_s)
        if self._channel.endpoint.relayed and looked.silent_s <= MOVING_S:  # the relay may be what is silent
            self._miss()
            return
        silent = f"{self._peer} is connected, and has said nothing for {looked.silent_s:.1f} s"
        self._lose(PeerLost(f"{silent}; its limit is {limit_s:.1f} s"))

    def _take_leave(self, reason: str) -> None:
        self._complete = reason == COMPLETE
        self._fetches.close()
        self._gradients.close()
        logger.info("peer left peer=%s reason=%s", self._peer, reason)
        if reason == BROKEN:
            self._member.changes.fail(PeerLost(f"{self._peer} has lost another member"), told_by=self._peer)
        elif reason == PAUSED:
            self._member.changes.fail(PeerPaused(f"{self._peer} was paused by its volunteer"), peer=self._peer)
        elif reason != COMPLETE:
            self._member.changes.fail(PeerLost(f"{self._peer} left: {reason}"), peer=self._peer)


async def _until_end(call: Any) -> None:
    """Of a call that has said all: whoever cancels it now has the other end log that its last word was not taken."""
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with asyncio.timeout(LAST_WORD_S):
            while await call.read() is not grpc.aio.EOF:
                pass


def peer_error(peer: WorkerId, error: grpc.aio.AioRpcError | TimeoutError) -> LegionError:
    """What a failed call means. Retryable: the watch decides whether the peer is still there."""
    if isinstance(error, TimeoutError):
        return PeerLost(f"{peer} stalled in the middle of a transfer")
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PeerRefused(f"{peer}: {details}")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED):
        slug, _, message = details.partition(": ")
        named = by_slug(slug, message)
        # The peer's own trouble, told once: trying again cannot change it.
        return named if not named.retryable else PeerError(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return PartInvalid(f"{peer}: a message is larger than any frame")
    return PeerLost(f"{peer}: {code.name.lower().replace('_', ' ')}, {details}")
