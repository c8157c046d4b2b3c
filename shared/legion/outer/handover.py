"""A reducer that leaves in good order hands what waits with it to the next reducer of each of its spans.

As int8: a residual is what one encoding dropped, and int8 keeps it to half a 127th of the largest of 256 values, in a
quarter of the bytes. A volunteer waits `LEAVING_S` at most, in which 10 Mbit/s carry six million values so, and one and
a half million as they are.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import numpy as np

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.errors import LegionError, PartInvalid, PartRefused
from legion.ids import ClusterId, RunId, WorkerId
from legion.layout import Bounds
from legion.messages import Member
from legion.outer.reducer import TOO_LARGE
from legion.outer.residuals import Made, Promised, Residuals, is_committed
from legion.outer.tally import Tally
from legion.rounds import HandedSpan, Handover, ResidualKey, RoundPlan, RoundRecord

logger = logging.getLogger(__name__)

LEAVING_S: Final = 5.0  # for all spans together
CODEC: Final = by_name("int8")


class Heirs(Protocol):
    """Calls to workers of other clusters."""

    async def send_residual(self, member: Member, key: ResidualKey, data: bytes) -> None: ...


class Estate:
    """The residuals of one worker: how they come from others, and leave."""

    def __init__(self, me: WorkerId, run_id: RunId, residuals: Residuals, heirs: Heirs, tally: Tally) -> None:
        """`tally`: of what is turned away."""
        self._me = me
        self._run_id = run_id
        self._residuals = residuals
        self._heirs = heirs
        self._tally = tally
        self._known: dict[tuple[int, int, WorkerId], ResidualKey] = {}  # by round, span and sender

    # Coming.

    def admit(self, sender: WorkerId, key: ResidualKey, plan: RoundPlan | None) -> Bounds:
        """Its span. PartRefused or PartInvalid. `plan`: of the key's round, None if that is long over."""
        try:
            return self._required(sender, key, plan)
        except (PartRefused, PartInvalid) as error:
            self._tally.refused(error.reason if isinstance(error, PartRefused) else "invalid")
            raise

    def _required(self, sender: WorkerId, key: ResidualKey, plan: RoundPlan | None) -> Bounds:
        if plan is None or (key.run_id, key.round) != (self._run_id, plan.round):
            raise PartRefused(f"a residual of round {key.round} comes too late", reason="round")
        if key.span >= len(plan.spans):
            raise PartRefused(f"round {plan.round} has no span {key.span}", reason="span")
        span = plan.spans[key.span]
        if key.term > plan.term(key.span) or sender == self._me or sender != span.reducers[key.term]:
            raise PartRefused(
                f"span {key.span} of round {plan.round} was not {sender}'s in term {key.term}", reason="stranger"
            )
        if self._me not in span.reducers:
            raise PartRefused(f"span {key.span} of round {plan.round} is not to be reduced here", reason="reducer")
        if key.size_bytes != CODEC.most_bytes(len(span.bounds)):
            raise PartInvalid(f"a residual of {len(span.bounds)} elements does not have {key.size_bytes} bytes")
        if self._known.get((key.round, key.span, sender), key) != key:
            raise PartRefused(f"another residual of span {key.span} is here already", reason="repeated")
        return span.bounds

    async def take(
        self,
        sender: WorkerId,
        key: ResidualKey,
        data: bytes,
        plan: RoundPlan | None,
        record: Callable[[], RoundRecord | None],
    ) -> None:
        """Keep it; the same again changes nothing. `record`: of its round, once that is committed."""
        bounds = self.admit(sender, key, plan)
        try:
            values = await asyncio.to_thread(_decoded, key, data, len(bounds))
        except (PartRefused, PartInvalid) as error:
            self._tally.refused(error.reason if isinstance(error, PartRefused) else "invalid")
            raise
        self.admit(sender, key, plan)  # another may have come meanwhile
        if (key.round, key.span, sender) in self._known:
            return
        self._known = {name: known for name, known in self._known.items() if name[0] >= key.round - 1}
        self._known[key.round, key.span, sender] = key
        committed = record()
        made = None if key.update is None else Made(key.term, key.update)
        if made is not None and committed is None:
            self._residuals.promise(Promised(key.round, bounds, made, values))
        elif made is None or (committed is not None and is_committed(committed, bounds, made)):
            self._residuals.add(bounds, values)
        logger.info("residual taken round=%d span=%d from=%s", key.round, key.span, sender)

    # Leaving.

    async def hand_over(self, plan: RoundPlan, gone: Collection[ClusterId]) -> Handover:
        """What has arrived at the next reducers within `LEAVING_S`; nothing more is reduced here."""
        wanted: dict[WorkerId, list[int]] = defaultdict(list)
        for span in range(len(plan.spans)):
            heir = heir_of(plan, span, gone) if plan.reducer(span) == self._me else None
            if heir is not None:
                wanted[heir].append(span)
        handed: list[HandedSpan] = []
        tasks = [asyncio.create_task(self._hand_to(plan, heir, spans, handed)) for heir, spans in wanted.items()]
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=LEAVING_S)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled():
                    task.result()
        return Handover(round=plan.round, spans=tuple(sorted(handed, key=lambda one: one.span)))

    async def _hand_to(self, plan: RoundPlan, heir: WorkerId, spans: Sequence[int], handed: list[HandedSpan]) -> None:
        member = plan.workers[heir]
        for span in spans:
            bounds = plan.spans[span].bounds
            found = self._residuals.leaving(bounds)
            if found is None:
                continue
            values, made = found
            update = made.digest if made else None
            data = bytes(await asyncio.to_thread(CODEC.encode, values))
            key = ResidualKey(
                run_id=self._run_id,
                round=plan.round,
                span=span,
                term=made.term if made else plan.term(span),
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                update=update,
            )
            try:
                await self._heirs.send_residual(member, key, data)
            except LegionError as error:
                logger.warning("residual lost round=%d span=%d heir=%s why=%s", plan.round, span, heir, error)
                continue
            handed.append(HandedSpan(span=span, heir=heir, update=update))


def heir_of(plan: RoundPlan, span: int, gone: Collection[ClusterId]) -> WorkerId | None:
    """Who combines the span when its reducer leaves, and with it its cluster: the next in the list who is there."""
    leaving = plan.of_worker(plan.reducer(span))
    for worker in plan.spans[span].reducers[plan.term(span) + 1 :]:
        participant = plan.of_worker(worker)
        if participant is not None and participant != leaving and participant.cluster not in gone:
            return worker
    return None


def _decoded(key: ResidualKey, data: bytes, numel: int) -> Floats:
    if len(data) != key.size_bytes or hashlib.sha256(data).hexdigest() != key.sha256:
        raise PartRefused(f"the residual of span {key.span} is not what its name says", reason="digest")
    values = np.empty(numel, np.float32)
    CODEC.decode(memoryview(data), values)
    if not (np.abs(values) < TOO_LARGE).all():
        raise PartRefused(f"the residual of span {key.span} holds what sums up to infinity", reason="not-finite")
    return values
