"""What a member answers to the other members of its plan. The only code that reads foreign messages.

Who calls is known from the certificate; it must be a member of the plan whose epoch the call names, and that is
checked before a message is read. For that, every handler here takes a stream, also where the protocol has a single
request: gRPC reads a single one before it calls the handler. On the wire both are the same.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from legion.codec.registry import by_wire_id
from legion.comm.api import Ballot, Batches
from legion.comm.frames import Opening, PartWriter, decode_opening, frame_count, frames_of
from legion.comm.liveness import BEAT_S
from legion.comm.mailbox import Delivery
from legion.comm.member import Member, naming
from legion.errors import LegionError, NotFinite, PartInvalid, PeerLost, StepAborted
from legion.ids import Rank, Step, UnitId, WorkerId, host_name
from legion.proto.peer_pb2 import (
    BallotMessage,
    ClaimReply,
    ClaimRequest,
    FetchRequest,
    PartHeader,
    Presence,
    Receipt,
    VerdictMessage,
)

logger = logging.getLogger(__name__)

SERVICE = "/legion.peer.v1.Peer/"
EPOCH_KEY = "legion-epoch"
Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Handler = Callable[..., Awaitable[Any]]
# Between a broken connection, which looks like the end of a stream, and gRPC's cancelling of the call: some ms.
CANCELLED_WITHIN_S = 1.0
DRAIN_S = 1.0  # for the rest of a part that is refused


class Parsed(Protocol):
    """A generated message."""

    @classmethod
    def FromString(cls, data: bytes) -> Self: ...  # noqa: N802  protobuf's name


Request = TypeVar("Request", bound=Parsed)


class PeerService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Refuses everybody until `member` is set: then the plan is known."""

    def __init__(self) -> None:
        self.member: Member | None = None
        self._farewell: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        answer = self.answer
        self._handlers = {
            SERVICE + "Fetch": grpc.stream_stream_rpc_method_handler(answer(self._fetch)),
            SERVICE + "SendGradient": grpc.stream_stream_rpc_method_handler(answer(self._send_gradient)),
            SERVICE + "Claim": grpc.stream_unary_rpc_method_handler(answer(self._claim)),
            SERVICE + "Vote": grpc.stream_unary_rpc_method_handler(answer(self._vote)),
            SERVICE + "Watch": grpc.stream_stream_rpc_method_handler(answer(self._watch)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def serve(self, member: Member) -> None:
        """From now on, and for nobody else; who watches us watches this member."""
        self.member = member
        self._farewell = asyncio.get_running_loop().create_future()

    def say_farewell(self, reason: str) -> None:
        """Those who watch us learn that we leave on purpose."""
        if not self._farewell.done():
            self._farewell.set_result(reason)

    def answer(self, handler: Handler) -> Handler:
        """For members of our plan only: `handler(member, rank of the caller, requests, context)`."""

        async def answered(requests: AsyncIterator[bytes], context: Context) -> Any:
            member, caller = await self._authorise(context)
            try:
                return await handler(member, caller, requests, context)
            except LegionError as error:
                if error is member.changes.failure and isinstance(error, PeerLost | StepAborted):
                    # Nothing of ours is wrong: we leave, and our farewell says why.
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "this member leaves")
                await refuse(context, error)
            except grpc.aio.InternalError as error:
                # The connection is gone: nobody is left to tell. As an error gRPC would log it with a traceback.
                raise asyncio.CancelledError from error
            except grpc.aio.BaseError:
                raise  # refused, or this server stops
            except Exception as error:  # the top of a call: logged, and the caller is told
                logger.exception("a call failed caller=%s", member.group.members[caller])
                await refuse(context, LegionError(f"{type(error).__name__}: {error}"))

        return answered

    async def _authorise(self, context: Context) -> tuple[Member, Rank]:
        names = [name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ())]
        metadata = dict(context.invocation_metadata() or ())
        try:
            epoch = int(metadata.get(EPOCH_KEY, ""))
        except ValueError:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the call names no plan")
        member = self.member
        if member is None or epoch > member.group.epoch:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this member does not know the plan yet")
        assert member is not None  # abort raises
        for rank, worker in enumerate(member.group.members):
            if epoch == member.group.epoch and host_name(worker) in names and rank != member.group.rank:
                return member, Rank(rank)
        logger.warning("call refused names=%s epoch=%d", names, epoch)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a member of the plan")
        raise AssertionError("abort raises")

    async def _fetch(self, member: Member, caller: Rank, requests: AsyncIterator[bytes], context: Context) -> None:
        async for request in requests:
            wanted = parsed(FetchRequest, request)
            unit, step = member.require_unit(wanted.unit), Step(wanted.step)
            values = await member.shelf.get(step, unit)
            with naming(member.me):
                for frame in frames_of(PartHeader(step=step, unit=unit), member.weights_codec, values):
                    await member.line.upload.through(len(frame))
                    await context.write(frame)
                    member.usage.sent_bytes += len(frame)

    async def _send_gradient(
        self, member: Member, caller: Rank, frames: AsyncIterator[bytes], context: Context
    ) -> None:
        sender = member.group.members[caller]
        async for first in frames:
            rest = PartFrames(frames)
            try:
                with member.receiving(sender):
                    await self._receive_gradient(member, sender, first, rest)
            except LegionError:
                await rest.drain()
                raise
            await context.write(Receipt().SerializeToString())

    async def _receive_gradient(self, member: Member, sender: WorkerId, first: bytes, rest: "PartFrames") -> None:
        member.usage.received_bytes += len(first)
        await member.line.download.through(len(first))
        with naming(sender):
            opening = _gradient_opening(member, first)
        header = opening.header
        rest.expect(header)
        step, unit = Step(header.step), UnitId(header.unit)
        batches = Batches(tuple(header.batches), header.tokens)
        delivery = None
        if await member.mailbox.admit(sender, step, unit, batches):
            delivery = member.mailbox.deliver(sender, step, unit, batches)
        if delivery is None:  # it has come before
            async for _ in rest:
                pass
            return
        with naming(sender):
            await _gradient_values(member, opening, rest, delivery)
        member.mailbox.delivered()

    async def _claim(self, member: Member, caller: Rank, requests: AsyncIterator[bytes], context: Context) -> bytes:
        wanted = await single(requests, ClaimRequest)
        sender = member.group.members[caller]
        index = None
        if wanted.rests:
            member.take_rest(sender, Step(wanted.step), wanted.batch_count)
        else:
            index = member.give_claim(sender, Step(wanted.step), wanted.serial, wanted.batch_count)
        return _counted(member, message=ClaimReply(index=index).SerializeToString(), request=wanted.ByteSize())

    async def _vote(self, member: Member, caller: Rank, requests: AsyncIterator[bytes], context: Context) -> bytes:
        message = await single(requests, BallotMessage)
        ballot = ballot_of(message)
        verdict = await member.take_vote(member.group.members[caller], Step(message.step), ballot)
        reply = VerdictMessage(
            commit=verdict.commit,
            norm_squared=verdict.norm_squared,
            loss_sum=verdict.loss_sum,
            tokens=verdict.tokens,
            reason=verdict.reason,
            ready=verdict.ready,
            late=verdict.late,
            keep=verdict.keep,
        ).SerializeToString()
        return _counted(member, message=reply, request=message.ByteSize())

    async def _watch(self, member: Member, caller: Rank, requests: AsyncIterator[bytes], context: Context) -> None:
        farewell = self._farewell
        while not farewell.done():
            await context.write(Presence().SerializeToString())
            await asyncio.wait({farewell}, timeout=BEAT_S)
        await context.write(Presence(leaving=True, reason=farewell.result()).SerializeToString())


def _counted(member: Member, message: bytes, request: int) -> bytes:
    """An answer, whose question had so many bytes: neither is held back."""
    member.line.download.count(request)
    member.line.upload.count(len(message))
    return message


class PartFrames:
    """The frames of one part of a stream, after its first."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames
        self._left: int | None = None  # not known before the header

    def expect(self, header: PartHeader) -> None:
        self._left = frame_count(by_wire_id(header.codec), header.numel) - 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._left == 0:
            raise StopAsyncIteration
        frame = await anext(self._frames)
        if self._left is not None:
            self._left -= 1
        return frame

    async def drain(self) -> None:
        """Take what is still to come and throw it away, until nothing has come for a second.

        gRPC would tell a sender that is still sending "internal error" instead of our answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S) as limit:
                async for _ in self:
                    if self._left is not None:  # they come to an end by themselves: as long as they come
                        limit.reschedule(asyncio.get_running_loop().time() + DRAIN_S)


def _gradient_opening(member: Member, first: bytes) -> Opening:
    opening = decode_opening(first)
    header = opening.header
    mine = len(member.layout.bounds(member.require_unit(header.unit), member.group.rank))
    if header.numel != mine:
        raise PartInvalid(f"{header.numel} elements of unit {header.unit}, of which {mine} are mine")
    by_wire_id(header.codec)
    return opening


async def _gradient_values(member: Member, opening: Opening, frames: PartFrames, delivery: Delivery) -> None:
    writer = PartWriter(opening, by_wire_id(opening.header.codec), delivery)
    async for frame in frames:
        member.usage.received_bytes += len(frame)
        await member.line.download.through(len(frame))
        writer.write(frame)
    if not writer.complete:
        await asyncio.sleep(CANCELLED_WITHIN_S)
    writer.finish()


async def single(requests: AsyncIterator[bytes], kind: type[Request]) -> Request:
    """The one request of a call."""
    first = await anext(requests, None)
    if first is None:
        raise PartInvalid("a call without a request")
    return parsed(kind, first)


def parsed(kind: type[Request], message: bytes) -> Request:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise PartInvalid(f"a {kind.__name__} cannot be read") from error


async def refuse(context: Context, error: LegionError) -> NoReturn:
    """The error's slug and sentence travel; a failure that is not the caller's fault is ABORTED."""
    callers_fault = isinstance(error, PartInvalid | NotFinite)
    code = grpc.StatusCode.INVALID_ARGUMENT if callers_fault else grpc.StatusCode.ABORTED
    await context.abort(code, f"{error.slug}: {error}")
    raise AssertionError("abort raises")


def ballot_of(message: BallotMessage) -> Ballot:
    return Ballot(
        ok=message.ok,
        batches=Batches(tuple(message.batches), message.tokens),
        batch_count=message.batch_count,
        loss_sum=message.loss_sum,
        norm_squared=message.norm_squared,
        purpose="evaluation" if message.evaluation else "border" if message.border else "step",
        reason=message.reason,
        ready=message.ready,
        late=message.late,
        keep=message.keep,
    )


def message_of(step: Step, ballot: Ballot) -> BallotMessage:
    return BallotMessage(
        step=step,
        ok=ballot.ok,
        batches=ballot.batches.indices,
        tokens=ballot.batches.tokens,
        batch_count=ballot.batch_count,
        loss_sum=ballot.loss_sum,
        norm_squared=ballot.norm_squared,
        evaluation=ballot.purpose == "evaluation",
        border=ballot.purpose == "border",
        reason=ballot.reason,
        ready=ballot.ready,
        late=ballot.late,
        keep=ballot.keep,
    )
