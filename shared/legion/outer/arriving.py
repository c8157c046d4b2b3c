"""Updates on their way here: asked of reducers before a round is committed, and afterwards of whoever has them.

An update is made, reported, stored and committed before anybody applies it. Who has contributed asks for it at once, so
that most of it is here when the record comes; what came and was not committed is forgotten with its round.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from legion.comm.waiting import Changes
from legion.errors import FingerprintMismatch, LegionError, PartInvalid
from legion.ids import WorkerId
from legion.layout import Bounds
from legion.messages import Member
from legion.outer.blobs import BlobFolder
from legion.outer.donors import donor
from legion.outer.tally import Tally
from legion.rounds import RoundPlan, RoundRecord, SpanRecord, UpdateKey

logger = logging.getLogger(__name__)

RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # pauses between tries; the last repeats
COMING_S = 5.0  # after its record, for the announcement of an update that was asked for before

Room = Callable[[int], AbstractAsyncContextManager[None]]  # inside it so many bytes may come
Needs = Callable[[Bounds], object]  # whether our slice meets a span
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Sources(Protocol):
    """Workers of other clusters. PeerError when one cannot be reached, or its own error when it refuses."""

    async def fetch_blob(self, member: Member, sha256: str, size_bytes: int, into: bytearray) -> None:
        """Append to `into` what of the update it lacks; after an error it holds what has come by then."""

    async def await_update(self, member: Member, key: UpdateKey, most_bytes: int, room: Room) -> tuple[str, bytes]:
        """The digest and the values, once the worker has made it; the values inside `room`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of updates on their way here."""

    room_bytes: int = 64 << 20  # for those that arrive side by side, each in memory until it is whole
    slow_bytes_per_s: float = 125_000.0  # 1 Mbit/s: as slow may be what was announced before its record came

    def of_scale(self, scale: float) -> "Limits":
        """Where `scale` bytes stand for each one."""
        return Limits(max(1, round(self.room_bytes / scale)), self.slow_bytes_per_s / scale)


Download = Callable[[str, int], Coroutine[Any, Any, bytes]]  # from storage, by digest and size


class Memory:
    """Bytes that may be on their way at once. What is larger than all of it comes alone."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = self._free_bytes = size_bytes
        self._changes = Changes()

    @asynccontextmanager
    async def room(self, size_bytes: int) -> AsyncIterator[None]:
        wanted = min(size_bytes, self._size_bytes)
        await self._changes.until(lambda: self._free_bytes >= wanted)
        self._free_bytes -= wanted
        try:
            yield
        finally:
            self._free_bytes += wanted
            self._changes.happened()


class Arriving:
    """`spawn` starts a task that its owner ends; `here` is called with a round all of whose updates are here."""

    def __init__(
        self,
        me: WorkerId,
        sources: Sources,
        download: Download,
        blobs: BlobFolder,
        needs: Needs,
        spawn: Spawn,
        here: Callable[[int], None],
        tally: Tally,
        limits: Limits,
    ) -> None:
        self._me = me
        self._sources = sources
        self._download = download
        self._blobs = blobs
        self._needs = needs
        self._spawn = spawn
        self._here = here
        self._tally = tally
        self._limits = limits
        self._memory = Memory(limits.room_bytes)
        self._coming: dict[UpdateKey, asyncio.Task[None]] = {}
        self._announced: dict[UpdateKey, int] = {}  # sizes of those that are on their way
        self._came: dict[int, set[str]] = {}  # by round: what came before it was committed

    # Before the record.

    def expect(self, plan: RoundPlan, span: int) -> None:
        """Ask the reducer of the plan's term; of others nothing is awaited any more."""
        key = UpdateKey(plan.round, span, plan.term(span))
        reducer = plan.reducer(span)
        holder = plan.workers.get(reducer)
        self._give_up(lambda other: other[:2] == key[:2] and other != key)
        if key in self._coming or holder is None or reducer == self._me:
            return
        most_bytes = 8 * len(plan.spans[span].bounds)  # twice what values take as they are
        self._coming[key] = self._spawn(self._await(key, holder, most_bytes), f"update of span {span} to be")

    async def _await(self, key: UpdateKey, holder: Member, most_bytes: int) -> None:
        @asynccontextmanager
        async def room(size_bytes: int) -> AsyncIterator[None]:
            self._announced[key] = size_bytes
            async with self._memory.room(size_bytes):
                yield

        try:
            sha256, data = await self._sources.await_update(holder, key, most_bytes, room)
        except LegionError as error:
            self._count(error)
            logger.info("update not awaited round=%d span=%d why=%s", key.round, key.span, error)
            return
        self._came.setdefault(key.round, set()).add(
            sha256
        )  # before: who is cancelled meanwhile has written it all the same
        await self._keep(sha256, data, holder.worker_id)

    def _give_up(self, which: Callable[[UpdateKey], bool]) -> None:
        """Of these nothing is awaited any more, nor do they take room."""
        for key in [key for key in self._coming if which(key)]:
            self._coming.pop(key).cancel()
            self._announced.pop(key, None)

    # After it.

    def committed(self, record: RoundRecord, plan: RoundPlan | None, newest: RoundPlan | None = None) -> None:
        """Bring all that our slice needs, side by side: each holder has an uplink of its own.

        `plan`: the record's, if we have it; `newest`: in which those who may have it too are.

        Each worker in an order of its own: in one and the same, all would wait for the first holders.
        """
        wanted = {
            span.digest: (number, span)
            for number, (bounds, span) in enumerate(zip(record.bounds, record.spans, strict=True))
            if self._needs(Bounds(*bounds))
        }
        named = {
            UpdateKey(record.round, number, span.term): span.size_bytes for number, span in enumerate(record.spans)
        }
        # Of a term that was not committed, or of another size than the record says: it would keep room for nothing.
        self._give_up(lambda key: key.round <= record.round and not self._is_as_named(key, named.get(key)))
        missing = set(wanted)
        for number, span in sorted(wanted.values(), key=lambda found: self._turn(found[1])):
            holder = plan.workers.get(span.reducer) if plan and span.reducer != self._me else None
            key = UpdateKey(record.round, number, span.term)
            near = donor(self._me, newest, record.round, span.reducer, span.digest)
            holders = [one for one in (near, holder) if one is not None]
            self._spawn(self._fetch(key, span, holders, missing), f"update of round {record.round}")
        if not wanted:  # a slice of nothing, as a member with a tiny share has it
            self._here(record.round)

    def _is_as_named(self, key: UpdateKey, size_bytes: int | None) -> bool:
        return size_bytes is not None and self._announced.get(key, size_bytes) == size_bytes

    def _turn(self, span: SpanRecord) -> bytes:
        return hashlib.sha256(f"{self._me} {span.digest}".encode()).digest()

    async def _fetch(self, key: UpdateKey, span: SpanRecord, holders: Sequence[Member], missing: set[str]) -> None:
        """Takes its digest from `missing`; the last one to do so has brought the round here."""
        coming = self._coming.pop(key, None)
        if coming is not None:
            await asyncio.wait({coming}, timeout=COMING_S)
            if self._announced.pop(key, None) == span.size_bytes:
                await asyncio.wait({coming}, timeout=span.size_bytes / self._limits.slow_bytes_per_s)
            coming.cancel()
        await self._bring(key.round, span, holders)
        missing.discard(span.digest)
        if not missing:
            self._here(key.round)

    async def _bring(self, round_number: int, span: SpanRecord, holders: Sequence[Member]) -> None:
        """From one after the other, and from storage, in turns."""
        tries, data, sources = 0, bytearray(), (*(holders or (None,)), None)
        while not self._blobs.has(span.digest):
            turn, place = divmod(tries, len(sources))
            source = sources[place]
            async with self._memory.room(span.size_bytes):
                try:
                    if source is not None:
                        await self._sources.fetch_blob(source, span.digest, span.size_bytes, data)
                    else:
                        data[:] = await self._download(span.digest, span.size_bytes)
                except LegionError as error:
                    self._count(error)
                    logger.info("update not here round=%d sha256=%s why=%s", round_number, span.digest[:12], error)
                    if isinstance(error, PartInvalid):
                        data.clear()
                else:
                    if await self._keep(span.digest, bytes(data), source.worker_id if source else "storage"):
                        return
                    data.clear()
            if place == len(sources) - 1:
                await asyncio.sleep(RETRY_S[min(turn, len(RETRY_S) - 1)])
            tries += 1

    async def _keep(self, sha256: str, data: bytes, holder: str) -> bool:
        """False when it is damaged, and to be fetched again. StorageFailed ends the engine: waiting frees no disk."""
        try:
            await asyncio.to_thread(self._blobs.put, sha256, data)
        except FingerprintMismatch as error:
            self._count(error)
            logger.warning("update damaged holder=%s why=%s", holder, error)
            return False
        return True

    def _count(self, error: LegionError) -> None:
        """PartInvalid: it was longer or shorter than announced."""
        if isinstance(error, FingerprintMismatch | PartInvalid):
            self._tally.damaged()

    # Leaving.

    @property
    def digests(self) -> set[str]:
        """Of what came and may still be committed."""
        return {digest for found in self._came.values() for digest in found}

    def forget_before(self, oldest: int) -> set[str]:
        """Rounds that are long over; what came of them before they were committed."""
        self._give_up(lambda key: key.round < oldest)
        return {digest for number in [n for n in self._came if n < oldest] for digest in self._came.pop(number)}
