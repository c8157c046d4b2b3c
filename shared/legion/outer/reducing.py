"""The spans that this worker combines or audits, on the event loop: parts come in, spans close, updates go out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from legion.codec.registry import any_by_name
from legion.comm.waiting import Changes
from legion.config import RoundsConfig
from legion.errors import PartRefused, Unavailable
from legion.ids import ClusterId, WorkerId
from legion.outer.reducer import Closing, SpanReducer, codecs_of
from legion.outer.residuals import Made, Residuals
from legion.outer.tally import Tally
from legion.rounds import PartKey, RoundPlan, RoundRecord, SpanReport

logger = logging.getLogger(__name__)

EARLY_S = 20.0  # a part may come this long before we hear of its round; less than a caller waits

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
Finished = Callable[[SpanReport, bytes], Awaitable[None]]


@dataclass(slots=True)
class Open:
    """A span at work. Offers are checked one at a time, in a thread."""

    reducer: SpanReducer
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Reducing:
    """`spawn` starts a task that its owner ends; `finished` is awaited with each update.

    `tally`: of parts that are turned away where no report can tell of it.
    """

    def __init__(
        self,
        me: WorkerId,
        config: RoundsConfig,
        changes: Changes,
        spawn: Spawn,
        finished: Finished,
        clock: Callable[[], float],
        tally: Tally,
    ) -> None:
        assert config.mean_over != "auto", "see RunConfig.averaging"
        self._me = me
        self._config = config
        self._mean_over = config.mean_over
        self._closing = Closing(config.quorum, config.grace_s)
        self._changes = changes
        self._spawn = spawn
        self._finished = finished
        self._clock = clock
        self._tally = tally
        self._round = -1
        self._open: dict[int, Open] = {}  # by span, of this round
        self._leaving = False
        self.residuals = Residuals()
        self.gone: frozenset[ClusterId] = frozenset()

    def plan_arrived(self, plan: RoundPlan) -> None:
        """The newest round's plan, or a new revision of it."""
        if plan.round != self._round:
            self._round, self._open = plan.round, {}
        for span in range(len(plan.spans)):
            known, term = self._open.get(span), plan.term(span)
            if self._me not in (plan.reducer(span), plan.spans[span].auditor):
                self._open.pop(span, None)
            elif known is None or known.reducer.term != term:
                self._open[span] = Open(self._reducer(plan, span, term))
                self._spawn(self._work(self._open[span]), f"reduce span {span}")
            elif known.reducer.plan.participants != plan.participants:
                self._spawn(self._revise(known, plan), f"revise span {span}")
        self._changes.happened()

    async def _revise(self, span: Open, plan: RoundPlan) -> None:
        async with span.turn:
            span.reducer.revise(plan)
        self._changes.happened()

    def _reducer(self, plan: RoundPlan, span: int, term: int) -> SpanReducer:
        return SpanReducer(
            plan,
            span,
            term,
            closing=self._closing,
            mean_over=self._mean_over,
            opened_s=self._clock(),
            codecs=codecs_of(self._config.codec, self._config.density, flush=plan.flush),
            tally=self._tally,
            audit=plan.reducer(span) != self._me,
        )

    def record_arrived(self, record: RoundRecord) -> None:
        self.residuals.settle(record)

    def leave(self) -> None:
        """No more updates are made: what waits here goes to others."""
        self._leaving = True
        self._changes.happened()

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        """PartRefused when a part of this name would not be taken."""
        (await self._find(key)).reducer.admit(sender, key)

    async def take_part(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        """Returns once it is checked and kept. PartRefused, PartInvalid."""
        span = await self._find(key)
        async with span.turn:
            await asyncio.to_thread(span.reducer.offer, sender, key, data)
        self._changes.happened()

    async def _find(self, key: PartKey) -> Open:
        """The sender may know the plan, or that the span is ours now, before we do: then it is to come again."""

        def is_open() -> bool:
            return self._round > key.round or (self._round == key.round and key.span in self._open)

        try:
            async with asyncio.timeout(EARLY_S):
                await self._changes.until(is_open)
        except TimeoutError:
            self._tally.refused("early")
            raise Unavailable(f"span {key.span} of round {key.round} is not reduced here, or not yet") from None
        if key.round != self._round:
            self._tally.refused("round")
            raise PartRefused(f"round {key.round} is over, this is round {self._round}", reason="round")
        return self._open[key.span]

    async def _work(self, span: Open) -> None:
        reducer = span.reducer
        while self._open.get(reducer.span) is span and not self._leaving:
            if reducer.should_close(self._clock(), self.gone):
                async with span.turn:
                    await self._reduce(reducer)
                return
            try:
                async with asyncio.timeout(reducer.next_look_s(self._clock())):
                    await self._changes.next()
            except TimeoutError:
                continue

    async def _reduce(self, reducer: SpanReducer) -> None:
        codec = any_by_name(self._config.update_codec)
        residual = None if reducer.audit else self.residuals.take(reducer.bounds)
        blob, report, dropped = await asyncio.to_thread(reducer.reduce, residual, codec)
        if self._leaving:
            return
        if not reducer.audit:
            self.residuals.dropped(reducer.bounds, Made(report.term, report.digest), dropped)
        logger.info(
            "span %s round=%d span=%d term=%d contributions=%d size_bytes=%d",
            "audited" if report.audit else "reduced",
            report.round,
            report.span,
            report.term,
            len(report.included),
            report.size_bytes,
        )
        await self._finished(report, blob)
