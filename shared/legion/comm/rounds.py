"""Parts and updates between workers of different clusters, over gRPC.

The same server and certificates as inside a cluster. Who calls must be a worker of the newest round's plan, or of the
one before it; that is checked before a message is read.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
from pydantic import ValidationError

from legion.comm.api import Usage
from legion.comm.credentials import CHANNEL_OPTIONS, channel_credentials
from legion.comm.line import Line
from legion.comm.server import parsed, refuse, single
from legion.errors import LegionError, NotFound, PartInvalid, PeerLost, PeerRefused, by_slug
from legion.identity import Identity
from legion.ids import WorkerId, host_name
from legion.messages import Member
from legion.proto.peer_pb2 import BlobPiece, BlobRequest, PartPiece, Receipt, UpdatePiece, UpdateRequest
from legion.rounds import PartKey, ResidualKey, UpdateKey

logger = logging.getLogger(__name__)

SERVICE: Final = "/legion.peer.v1.Rounds/"
PIECE_BYTES: Final = 1 << 20
KEY_BYTES: Final = 1 << 16
UPDATE_PIECE_BYTES: Final = 1 << 18  # of updates, which many may fetch at once: each shows soon that it moves
SILENT_S: Final = 30.0  # of a call, beyond what its bytes take
GRACE_S: Final = 10.0  # for calls under way to who is named no more
HANGING_S: Final = 5.0  # who does not begin to answer within this time is not waited for: storage has it too
OPENING_BYTES: Final = 1 << 19  # of values that follow a part's name at once, so that the line is not idle meanwhile
AHEAD_BYTES: Final = 1 << 20  # of an update, before we ask for more: what a fast line holds; gRPC's own limit is 64 KiB
ADMITTED: Final = ("legion-admitted", "1")  # what a reducer answers to a part's name; then the values may come
Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Handler = Callable[..., Awaitable[Any]]
Room = Callable[[int], AbstractAsyncContextManager[None]]
Piece = TypeVar("Piece", BlobPiece, UpdatePiece)
Key = TypeVar("Key", PartKey, ResidualKey)


class Desk(Protocol):
    """What a worker offers to those of other clusters."""

    def knows(self, worker: WorkerId) -> bool: ...

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        """Raises what `take_part` would, as far as the key alone tells, so that nothing is read in vain."""

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None: ...

    async def admit_residual(self, sender: WorkerId, key: ResidualKey) -> None:
        """As for parts."""

    async def take_residual(self, sender: WorkerId, key: ResidualKey, data: bytes) -> None: ...

    def turned_away(self, reason: str) -> None:
        """A part, or who called, was refused before the two above were asked: to be counted."""

    def update(self, sha256: str) -> memoryview | None: ...

    async def made(self, key: UpdateKey) -> str:
        """The digest of our update, once it is made. NotFound when it never will be."""


class RoundService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Refuses everybody until `desk` is set."""

    def __init__(self) -> None:
        self.desk: Desk | None = None
        self.usage = Usage()
        self.line = Line()
        self._opened: dict[WorkerId, int] = {}  # the newest round of which a caller was given an update
        self._handlers = {
            SERVICE + "SendPart": grpc.stream_unary_rpc_method_handler(self._answer(self._send_part)),
            SERVICE + "SendResidual": grpc.stream_unary_rpc_method_handler(self._answer(self._send_residual)),
            SERVICE + "FetchBlob": grpc.stream_stream_rpc_method_handler(self._answer(self._fetch_blob)),
            SERVICE + "AwaitUpdate": grpc.stream_stream_rpc_method_handler(self._answer(self._await_update)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def _answer(self, handler: Handler) -> Handler:
        async def answered(requests: AsyncIterator[bytes], context: Context) -> Any:
            desk, caller = await self._authorise(context)
            try:
                return await handler(desk, caller, requests, context)
            except LegionError as error:
                await refuse(context, error)
            except grpc.aio.InternalError as error:
                # The connection is gone: nobody is left to tell. As an error gRPC would log it with a traceback.
                raise asyncio.CancelledError from error
            except grpc.aio.BaseError:
                raise  # refused, or this server stops
            except Exception as error:  # the top of a call: logged, and the caller is told
                logger.exception("a call failed caller=%s", caller)
                await refuse(context, LegionError(f"{type(error).__name__}: {error}"))

        return answered

    async def _authorise(self, context: Context) -> tuple[Desk, WorkerId]:
        names = [name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ())]
        desk = self.desk
        if desk is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker takes part in no round yet")
        assert desk is not None  # abort raises
        for name in names:
            worker = WorkerId(name.partition(".")[0])
            if host_name(worker) == name and desk.knows(worker):
                return desk, worker
        desk.turned_away("stranger")
        logger.warning("call refused names=%s", names)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a worker of this round")
        raise AssertionError("abort raises")

    async def _send_part(self, desk: Desk, caller: WorkerId, requests: AsyncIterator[bytes], context: Context) -> bytes:
        key, data = await self._received(PartKey, partial(desk.admit, caller), desk, requests, context)
        await desk.take_part(caller, key, data)
        return Receipt().SerializeToString()

    async def _send_residual(
        self, desk: Desk, caller: WorkerId, requests: AsyncIterator[bytes], context: Context
    ) -> bytes:
        key, data = await self._received(ResidualKey, partial(desk.admit_residual, caller), desk, requests, context)
        await desk.take_residual(caller, key, data)
        return Receipt().SerializeToString()

    async def _received(
        self,
        kind: type[Key],
        admit: Callable[[Key], Awaitable[None]],
        desk: Desk,
        requests: AsyncIterator[bytes],
        context: Context,
    ) -> tuple[Key, bytes]:
        """The name, and the values once `admit` has let them in."""
        first = await anext(requests, None)
        with _counting_invalid(desk):
            if first is None:
                raise PartInvalid("a part without a piece")
            self.usage.received_bytes += len(first)
            self.line.download.count(len(first))
            opening = parsed(PartPiece, first)
            key = _key(kind, opening.key)
        try:
            await admit(key)
        except LegionError:
            await anext(requests, None)  # who is refused while still sending is told "internal error", not why
            raise
        await context.send_initial_metadata((ADMITTED,))
        with _counting_invalid(desk):
            return key, await self._values(requests, opening.payload, key.size_bytes)

    async def _values(self, requests: AsyncIterator[bytes], first: bytes, size_bytes: int) -> bytes:
        data = bytearray(first)
        patience_s = _patience_s(size_bytes) + self.line.download.least_s(size_bytes)
        try:
            async with asyncio.timeout(patience_s):
                async for piece in requests:
                    self.usage.received_bytes += len(piece)
                    await self.line.download.through(len(piece))
                    data += parsed(PartPiece, piece).payload
                    if len(data) > size_bytes:
                        break
        except TimeoutError:  # what has come takes memory here, and the other end may never go on
            raise PartInvalid(f"{len(data)} of {size_bytes} bytes came in {patience_s:g} s") from None
        if len(data) != size_bytes:
            raise PartInvalid(f"{len(data)} bytes or more came for a part of {size_bytes}")
        return bytes(data)

    async def _fetch_blob(self, desk: Desk, caller: WorkerId, requests: AsyncIterator[bytes], context: Context) -> None:
        wanted = await single(requests, BlobRequest)
        update = desk.update(wanted.sha256)
        if update is None or wanted.offset > update.nbytes:
            raise NotFound(f"no update {wanted.sha256[:12]} is here from {wanted.offset} on")
        await self._write(context, BlobPiece())
        for payload in _cut(update[wanted.offset :], self.line):
            await self._write(context, BlobPiece(payload=payload))

    async def _await_update(
        self, desk: Desk, caller: WorkerId, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        wanted = await single(requests, UpdateRequest)
        sha256 = await desk.made(UpdateKey(wanted.round, wanted.span, wanted.term))
        update = desk.update(sha256)
        if update is None:
            raise NotFound(f"update {sha256[:12]} is here no more")
        await self._write(context, UpdatePiece(sha256=sha256, size_bytes=update.nbytes))
        # The first one sets out at once: while parts still leave, the way to this worker opens (RFC 5681, 3.1).
        first = self._opened.get(caller) != wanted.round
        self._opened[caller] = wanted.round
        for payload in _cut(update, self.line):
            if not first:
                await self.line.free()
            await self._write(context, UpdatePiece(payload=payload))

    async def _write(self, context: Context, piece: BlobPiece | UpdatePiece) -> None:
        message = piece.SerializeToString()
        await self.line.upload.through(len(message))
        self.usage.sent_bytes += len(message)  # before: the caller may have it, and look, while we still wait
        await context.write(message)


def _cut(update: memoryview, line: Line) -> Iterator[bytes]:
    start = 0
    while start < update.nbytes:
        payload = bytes(update[start : start + line.upload.piece_bytes(UPDATE_PIECE_BYTES)])
        start += len(payload)
        yield payload


class RoundLinks:
    """Channels to workers of other clusters, opened when first used. See `outer.courier.Links`."""

    def __init__(self, identity: Identity, usage: Usage, line: Line) -> None:
        self._credentials = channel_credentials(identity)
        self._usage = usage
        self._line = line
        self._channels: dict[tuple[WorkerId, str], Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def open_to(self) -> frozenset[tuple[WorkerId, str]]:
        """Workers, with their addresses."""
        return frozenset(self._channels)

    def keep(self, members: Iterable[Member]) -> None:
        """Channels to others, and to where these were before, are closed; calls under way there may end first."""
        named = {_address(member) for member in members}
        for gone in self._channels.keys() - named:
            closing = asyncio.ensure_future(self._channels.pop(gone).close(GRACE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def send_part(self, member: Member, key: PartKey, data: bytes) -> None:
        """PartRefused and other answers of the reducer come out as they are; PeerLost when there is none."""
        await self._send("SendPart", member, key, data)

    async def send_residual(self, member: Member, key: ResidualKey, data: bytes) -> None:
        """See `outer.handover.Heirs`; errors as for parts."""
        await self._send("SendResidual", member, key, data)

    async def _send(self, method: str, member: Member, key: PartKey | ResidualKey, data: bytes) -> None:
        upload = self._line.upload

        async def pieces(leaves: Callable[[int], None]) -> AsyncIterator[bytes]:
            yield await self._passed(PartPiece(key=key.model_dump_json().encode()))
            start = upload.piece_bytes(OPENING_BYTES)
            leaves(len(data[:start]))
            yield await self._passed(PartPiece(payload=data[:start]))  # which is read before a refusal
            if ADMITTED not in tuple(await call.initial_metadata()):
                return
            while payload := data[start : start + upload.piece_bytes(PIECE_BYTES)]:
                start += len(payload)
                leaves(len(payload))
                yield await self._passed(PartPiece(payload=payload))
            leaves(0)

        with self._line.carrying_part() as leaves:
            patience_s = _patience_s(len(data)) + upload.least_s(len(data))
            call = self._channel(member).stream_unary(SERVICE + method)(pieces(leaves), timeout=patience_s)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                raise _named(member.worker_id, error) from error

    async def _passed(self, piece: PartPiece) -> bytes:
        message = piece.SerializeToString()
        await self._line.upload.through(len(message))
        self._usage.sent_bytes += len(message)
        return bytes(message)

    async def fetch_blob(self, member: Member, sha256: str, size_bytes: int, into: bytearray) -> None:
        """Append to `into` what of the update it lacks; after an error it holds what has come by then.

        PartInvalid when it is longer; NotFound when the worker does not have it; PeerLost when it hangs.
        """
        left = size_bytes - len(into)
        request = BlobRequest(sha256=sha256, offset=len(into)).SerializeToString()
        patience_s = _patience_s(left) + self._line.download.least_s(left)
        call = self._channel(member).unary_stream(SERVICE + "FetchBlob")(request, timeout=patience_s)
        try:
            opening = await self._read(member, BlobPiece, call, HANGING_S)
            into += opening.payload
            await self._payloads(member, BlobPiece, call, size_bytes, into)
        except grpc.aio.AioRpcError as error:
            raise _named(member.worker_id, error) from error
        finally:
            call.cancel()  # else one that sends too much would go on

    async def await_update(self, member: Member, key: UpdateKey, most_bytes: int, room: Room) -> tuple[str, bytes]:
        """Its digest, which is not checked, and the update; as long as it takes: the caller says when to give up.

        The values come inside `room`. PartInvalid beyond `most_bytes`, else as `fetch_blob`.
        """
        request = UpdateRequest(round=key.round, span=key.span, term=key.term).SerializeToString()
        call = self._channel(member).unary_stream(SERVICE + "AwaitUpdate")(request)
        try:
            opening = await self._read(member, UpdatePiece, call, None)
            if opening.size_bytes > most_bytes:
                raise PartInvalid(f"{member.worker_id} announces an update of {opening.size_bytes} bytes")
            async with room(opening.size_bytes):
                data = bytearray()
                await self._payloads(member, UpdatePiece, call, opening.size_bytes, data)
                return opening.sha256, bytes(data)
        except grpc.aio.AioRpcError as error:
            raise _named(member.worker_id, error) from error
        finally:
            call.cancel()

    async def _read(self, member: Member, kind: type[Piece], call: Any, within_s: float | None) -> Piece:
        try:
            async with asyncio.timeout(within_s):
                message = await call.read()
        except TimeoutError:
            raise PeerLost(f"{member.worker_id}: nothing came for {within_s:g} s") from None
        if message is grpc.aio.EOF:
            raise PartInvalid(f"{member.worker_id} sends less of an update than it announced")
        self._usage.received_bytes += len(message)
        await self._line.download.through(len(message))
        return parsed(kind, message)

    async def _payloads(self, member: Member, kind: type[Piece], call: Any, size_bytes: int, into: bytearray) -> None:
        while len(into) < size_bytes:
            payload = (await self._read(member, kind, call, SILENT_S)).payload
            if not payload:
                raise PartInvalid(f"{member.worker_id} sends a piece of an update with nothing in it")
            into += payload
        if len(into) > size_bytes:
            raise PartInvalid(f"{member.worker_id} sends more than the {size_bytes} bytes of an update")

    def _channel(self, member: Member) -> Any:
        known = self._channels.get(_address(member))
        if known is None:
            known = self._channels[_address(member)] = grpc.aio.secure_channel(
                _address(member)[1],
                self._credentials,
                options=[
                    *CHANNEL_OPTIONS,
                    ("grpc.http2.lookahead_bytes", AHEAD_BYTES),
                    ("grpc.ssl_target_name_override", host_name(member.worker_id)),
                ],
            )
        return known


@contextlib.contextmanager
def _counting_invalid(desk: Desk) -> Iterator[None]:
    try:
        yield
    except PartInvalid:
        desk.turned_away("invalid")
        raise


def _address(member: Member) -> tuple[WorkerId, str]:
    return member.worker_id, f"{member.endpoint.host}:{member.endpoint.port}"


def _patience_s(size_bytes: int) -> float:
    """For a whole call: at 1 Mbit/s, and what a checker at the other end may take."""
    return SILENT_S + size_bytes / 125_000


def _key(kind: type[Key], text: bytes) -> Key:
    if len(text) > KEY_BYTES:
        raise PartInvalid(f"the name of a part takes {len(text)} bytes")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise PartInvalid("the name of a part cannot be read") from error


def _named(peer: WorkerId, error: grpc.aio.AioRpcError) -> LegionError:
    code, detail = error.code(), error.details() or ""
    slug, _, sentence = detail.partition(": ")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED) and sentence:
        return by_slug(slug, f"{peer}: {sentence}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PeerRefused(f"{peer}: {detail}")
    return PeerLost(f"{peer}: {code.name.lower()}")
