"""The loop's side of rounds: plans and records come in, parts go to reducers, updates come back.

On the event loop; owns every task of rounds; implements `member.Office`. What the weights become follows from the log.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from legion.codec import auto
from legion.codec.api import AnyCodec
from legion.codec.registry import any_by_name
from legion.comm.api import Work
from legion.comm.bridge import Bridge
from legion.comm.waiting import Changes
from legion.config import RoundsConfig
from legion.errors import LegionError, NotFinite, NotFound, PartInvalid, PartRefused
from legion.ids import ClusterId, WorkerId
from legion.layout import CHUNK, Bounds
from legion.messages import Member
from legion.outer.arriving import RETRY_S, Arriving, Limits
from legion.outer.blobs import BlobFolder
from legion.outer.handover import Estate
from legion.outer.member import Outgoing, Place
from legion.outer.reducing import EARLY_S, Reducing
from legion.outer.tally import Tally
from legion.outer.uplink import Uplink
from legion.outer.world import Control, Links
from legion.rounds import Handover, PartKey, ResidualKey, RootReport, RoundPlan, RoundRecord, SpanReport, UpdateKey

logger = logging.getLogger(__name__)

UPLINK_SHARE = 0.5  # of the time for a contribution, that sending it may take
SIDE_BY_SIDE = 2  # parts to one reducer: while one waits for an answer, the line is not idle
STRANGER_TRIES = 5
SERVED_ROUNDS = 4  # whose updates are kept for others


class Courier:
    """One worker's. `working` owns its tasks; everything else is for the time of that block."""

    def __init__(
        self,
        me: WorkerId,
        config: RoundsConfig,
        place: Place,
        anchor: int,
        links: Links,
        control: Control,
        blobs: BlobFolder,
        bridge: Bridge,
        limits: Limits = Limits(),
    ) -> None:
        self._me = me
        self._config = config
        self._place = place
        self._anchor = anchor
        self._links = links
        self._control = control
        self._blobs = blobs
        self._bridge = bridge
        self._clock = asyncio.get_running_loop().time
        self._changes = Changes()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._plans: dict[int, RoundPlan] = {}
        self._records: dict[int, RoundRecord] = {}
        self._oldest = anchor  # round whose record may still be of use
        self._updates: dict[UpdateKey, str] = {}  # digests of those that we reduced: not all are committed
        self._here: set[int] = set()  # rounds whose updates are here, as far as our slice needs them
        self._newest = -1  # round of the newest plan
        self._late_at = 0.0
        self._ready = anchor - 1
        self._back_to: int | None = None  # the oldest anchor that our cluster may go back to, if it ever does
        self._waking = self._broken = False
        self._uplink = Uplink()
        self._turns: dict[WorkerId, asyncio.Semaphore] = {}  # of parts to one reducer, in the order of spans
        self._tally = Tally()
        self._arriving = Arriving(
            me, links, control.download, blobs, self._needs, self._spawn, self._all_here, self._tally, limits
        )
        self._reducing = Reducing(me, config, self._changes, self._spawn, self._reduced, self._clock, self._tally)
        self._estate = Estate(me, place.run_id, self._reducing.residuals, links, self._tally)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The tasks run as long as the block; an error in one of them ends the block."""
        try:
            async with asyncio.TaskGroup() as self._group:
                yield
                for task in self._tasks:
                    task.cancel()
        except BaseExceptionGroup as failed:
            ours = failed.subgroup(LegionError)
            raise (ours or failed).exceptions[0] from None
        finally:
            self._group = None
            self._changes.happened()  # for those who wait for an update of ours

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _needs(self, span: Bounds) -> bool:
        return bool(self._place.layout.fragments(self._place.rank, span))

    def _all_here(self, round_number: int) -> None:
        """Also said by who looked for what our slice of before needed."""
        record = self._records.get(round_number)
        spans = zip(record.bounds, record.spans, strict=True) if record else ()
        if all(self._blobs.has(span.digest) for bounds, span in spans if self._needs(Bounds(*bounds))):
            self._here.add(round_number)
            self._advance()

    async def take_seat(self, place: Place, anchor: int) -> None:
        """In another plan of our cluster: another slice, whose weights are of `anchor`."""
        self._place, self._anchor, self._ready = place, anchor, anchor - 1
        self._broken = False
        self._here.clear()
        for number in sorted(number for number in self._records if number >= anchor):
            self._arriving.committed(self._records[number], self._plans.get(number), self._plans.get(self._newest))
        self._advance()

    def may_go_back(self, anchor: int) -> None:
        """Plans and records from this anchor on may be of use again: a restore point stands on it."""
        self._back_to = anchor

    # From the coordinator.

    def plan_arrived(self, plan: RoundPlan) -> None:
        """Repeated and late ones change nothing."""
        known = self._plans.get(plan.round)
        if known is not None and known.revision >= plan.revision:
            return
        self._plans[plan.round] = plan
        if plan.round > self._newest:
            self._newest, self._late_at = plan.round, self._clock() + plan.contribute_s
        if plan.round == self._newest:
            self._reducing.plan_arrived(plan)
        self._advance()

    def record_arrived(self, record: RoundRecord) -> None:
        if record.round in self._records or record.round < self._oldest:
            return
        self._records[record.round] = record
        self._reducing.record_arrived(record)
        self._arriving.committed(record, self._plans.get(record.round), self._plans.get(self._newest))
        self._changes.happened()

    def clusters_gone(self, gone: frozenset[ClusterId]) -> None:
        self._reducing.gone = gone
        self._changes.happened()

    # For the compute thread: see member.Office.

    @property
    def ready(self) -> int:
        return self._ready

    @property
    def late(self) -> bool:
        return self._clock() >= self._late_at

    def plan(self, round_number: int) -> RoundPlan:
        return self._plans[round_number]

    def record(self, round_number: int) -> RoundRecord:
        return self._records[round_number]

    def blob(self, sha256: str) -> memoryview:
        return self._blobs.read(sha256)

    def codec(self) -> AnyCodec:
        return any_by_name(self._codec_name())

    def _codec_name(self) -> str:
        name = self._config.codec
        if name == "topk":
            return f"topk{round(self._config.density * CHUNK)}"
        if name != "auto":
            return name
        within_s = UPLINK_SHARE * self._plans[self._newest].contribute_s
        numel = self._place.layout.owned(self._place.rank)
        return auto.choose(numel, 8 * self._uplink.bytes_per_s, within_s)

    def send(self, parts: Sequence[Outgoing]) -> None:
        self._bridge.post(self._deliver_all, parts)

    def applied(self, report: Callable[[], RootReport]) -> Work[None]:
        return self._bridge.submit(self._moved(report))

    def wait_ready(self, anchor: int) -> None:
        self._bridge.submit(self._changes.until(lambda: self._waking or self._broken or self._ready >= anchor)).wait()

    def plan_broken(self) -> None:
        """Our cluster has failed: it is not to find that out when the round is over. Until `take_seat`."""
        self._broken = True
        self._changes.happened()

    def wake(self) -> None:
        """Nobody is to wait any more: the engine stops."""
        self._waking = True
        self._changes.happened()

    # For other workers.

    def knows(self, worker: WorkerId) -> bool:
        """Whether it is in the newest round, or in the one before it."""
        plans = (self._plans.get(self._newest), self._plans.get(self._newest - 1))
        return any(plan is not None and worker in plan.workers for plan in plans)

    def turned_away(self, reason: str) -> None:
        """A part or a caller that was refused before it was our turn to say so."""
        self._tally.refused(reason)

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        await self._reducing.admit(sender, key)

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        await self._reducing.take_part(sender, key, data)

    async def admit_residual(self, sender: WorkerId, key: ResidualKey) -> None:
        self._estate.admit(sender, key, await self._recent_plan(key.round))

    async def take_residual(self, sender: WorkerId, key: ResidualKey, data: bytes) -> None:
        plan = await self._recent_plan(key.round)
        await self._estate.take(sender, key, data, plan, lambda: self._records.get(key.round))

    async def _recent_plan(self, round_number: int) -> RoundPlan | None:
        """None of a round that is over for long, or of which we do not hear in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EARLY_S):
                await self._changes.until(lambda: self._newest >= round_number)
        return self._plans.get(round_number) if round_number >= self._newest - 1 else None

    async def hand_over(self) -> Handover | None:
        """Before we leave: what waits with us goes to the next reducers. None: there is no round."""
        plan = self._plans.get(self._newest)
        self._reducing.leave()
        return await self._estate.hand_over(plan, self._reducing.gone) if plan else None

    def update(self, sha256: str) -> memoryview | None:
        """An update that we have."""
        return self._blobs.read(sha256) if self._blobs.has(sha256) else None

    async def made(self, key: UpdateKey) -> str:
        """For who waits for an update of ours. NotFound when there will be none."""
        await self._changes.until(lambda: key in self._updates or not self._makes(key) or self._group is None)
        if key not in self._updates:
            raise NotFound(f"span {key.span} of round {key.round} is not reduced here in term {key.term}")
        return self._updates[key]

    def _makes(self, key: UpdateKey) -> bool:
        """Or may do so, as far as we know."""
        plan = self._plans.get(key.round)
        if plan is None:
            return key.round == self._newest + 1
        if self._is_over(key.round) or key.span >= len(plan.spans):
            return False
        return key.term > plan.term(key.span) or (key.term, self._me) == (plan.term(key.span), plan.reducer(key.span))

    # Tasks.

    def _deliver_all(self, parts: Sequence[Outgoing]) -> None:
        for part in parts:
            self._spawn(self._deliver(part), f"part of span {part.key.span}")

    async def _deliver(self, part: Outgoing) -> None:
        """To the span's reducer, and to its successors, until the round is committed."""
        key, tries = part.key, 0
        while not self._is_over(key.round):
            plan = self._plans[key.round]
            moved_on = self._over_or_other_term(key, plan.term(key.span))
            reducer = plan.reducer(key.span)
            try:
                await self._unless(moved_on, self._hand_over(plan.workers.get(reducer), reducer, part))
            except (PartRefused, PartInvalid, NotFinite) as error:
                logger.warning("part refused round=%d span=%d why=%s", key.round, key.span, error)
                if isinstance(error, PartRefused) and error.reason == "stranger" and tries < STRANGER_TRIES:
                    tries += 1  # a cluster that goes on with other members may be ahead of the round's plan
                    await self._pause(RETRY_S[min(tries, len(RETRY_S) - 1)])
                    continue
            except LegionError as error:
                pause_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
                tries += 1
                logger.info("part not sent round=%d span=%d retry_s=%.1f why=%s", key.round, key.span, pause_s, error)
                await self._pause(pause_s)
                continue
            else:
                if (auditor := plan.spans[key.span].auditor) is not None:  # after the reducer, who is not to wait
                    self._spawn(self._show(part, auditor, moved_on), f"part of span {key.span} for its auditor")
            if not moved_on():
                self._arriving.expect(plan, key.span)
            await self._changes.until(moved_on)

    async def _show(self, part: Outgoing, auditor: WorkerId, moved_on: Callable[[], bool]) -> None:
        """A part that the reducer has, to the span's auditor; nothing is lost if it does not get there."""
        key, tries = part.key, 0
        while not moved_on():
            try:
                member = self._plans[key.round].workers.get(auditor)
                await self._unless(moved_on, self._hand_over(member, auditor, part))
            except (PartRefused, PartInvalid, NotFinite) as error:
                logger.info("part not audited round=%d span=%d why=%s", key.round, key.span, error)
            except LegionError as error:
                logger.info("part not sent to its auditor round=%d span=%d why=%s", key.round, key.span, error)
                await self._pause(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
                continue
            return

    def _is_over(self, round_number: int) -> bool:
        return round_number in self._records or round_number < self._oldest

    def _over_or_other_term(self, key: PartKey, term: int) -> Callable[[], bool]:
        return lambda: self._is_over(key.round) or self._plans[key.round].term(key.span) != term

    async def _unless(self, fact: Callable[[], bool], work: Coroutine[Any, Any, None]) -> None:
        """The work, given up once the fact is true: a call to a computer that hangs would last long after."""
        both = asyncio.ensure_future(work), asyncio.ensure_future(self._changes.until(fact))
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        if not both[0].cancelled():
            both[0].result()

    async def _hand_over(self, member: Member | None, reducer: WorkerId, part: Outgoing) -> None:
        if reducer == self._me:
            await self._reducing.take_part(self._me, part.key, part.data)
        elif member is None:
            raise PartRefused(f"the plan does not say where {reducer} is", reason="stranger")
        else:
            async with self._turns.setdefault(reducer, asyncio.Semaphore(SIDE_BY_SIDE)):
                started = self._clock()
                await self._links.send_part(member, part.key, part.data)
                self._uplink.measured(len(part.data), self._clock() - started)

    async def _pause(self, pause_s: float) -> None:
        """Shorter, if anything happens."""
        try:
            async with asyncio.timeout(pause_s):
                await self._changes.next()
        except TimeoutError:
            return

    async def _moved(self, made: Callable[[], RootReport]) -> None:
        report = await asyncio.to_thread(made)
        self._control.applied(self._tally.told_with(report))
        served = report.round - SERVED_ROUNDS
        self._oldest = max(self._oldest, served if self._back_to is None else min(served, self._back_to))
        self._forget_before(self._oldest)

    def _forget_before(self, oldest: int) -> None:
        dropped = self._arriving.forget_before(oldest)
        for number in [number for number in self._records if number < oldest]:
            dropped |= {span.digest for span in self._records.pop(number).spans}
        for key in [key for key in self._updates if key.round < oldest]:
            dropped.add(self._updates.pop(key))
        self._plans = {number: plan for number, plan in self._plans.items() if number >= oldest}
        self._here = {number for number in self._here if number >= oldest}
        # Two rounds may have the same update: of a span that nobody changes.
        kept = {span.digest for record in self._records.values() for span in record.spans}
        kept |= self._arriving.digests.union(self._updates.values())
        for digest in dropped - kept:
            self._blobs.forget(digest)

    async def _reduced(self, report: SpanReport, blob: bytes) -> None:
        if report.audit:
            await self._control.reduced(report, self._blobs)
            return
        await asyncio.to_thread(self._blobs.put, report.digest, blob)
        self._updates[UpdateKey(report.round, report.span, report.term)] = report.digest
        self._changes.happened()
        await self._control.reduced(report, self._blobs)

    def _advance(self) -> None:
        while self._ready < self._place.rounds:
            following = self._ready + 1
            updated = following == self._anchor or following - 1 in self._here
            if not updated or (following not in self._plans and following != self._place.rounds):
                break
            self._ready = following
        self._changes.happened()
