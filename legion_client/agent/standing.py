"""How the run and our part in it stand, as the server tells: asked now and then, remembered over restarts."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.errors import LegionError
from legion.ids import ClusterId, RunId
from legion.messages import Plan
from legion.reports import LossCurve, MetricsView, StepRecord
from legion.rounds import RoundRecord
from legion_client.agent.coordinator import Coordinator
from legion_client.control.messages import Contribution, CurveIs, CurvePoint, RunNow

logger = logging.getLogger(__name__)

ASK_S = 20.0
MOST_POINTS = 2000  # that a server gives


class Memory(BaseModel, frozen=True, extra="ignore"):
    """Of one run. `clusters`: that we were a member of, with the number of members."""

    run_id: RunId = RunId("")
    accepted_tokens: int = 0
    since: int = 0  # round whose record has not been looked at yet
    clusters: dict[ClusterId, int] = {}


class Standing:
    """Belongs to the event loop's thread."""

    def __init__(self, path: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._changed = changed
        self._memory = self._saved = _load(path)
        self._run_tokens = 0
        self.run: RunNow | None = None
        self._newest = CurveIs()
        self._server: Coordinator | None = None  # while it is asked

    @property
    def contribution(self) -> Contribution:
        accepted = self._memory.accepted_tokens
        share = min(1.0, accepted / self._run_tokens) if self._run_tokens and accepted else None
        return Contribution(accepted_tokens=accepted, share=share)

    def follows(self, plan: Plan) -> None:
        """We are a member of its cluster from now on."""
        memory = self._memory
        if memory.run_id != plan.run_id:
            memory = Memory(run_id=plan.run_id, since=plan.round)
        self._memory = memory.model_copy(
            update={
                "clusters": memory.clusters | {plan.cluster: len(plan.members)} if plan.cluster else memory.clusters
            }
        )

    def stepped(self, record: StepRecord) -> None:
        """In a run without rounds, what a committed step used of ours is accepted with it."""
        if not self._memory.clusters:
            self._memory = self._memory.model_copy(
                update={"accepted_tokens": self._memory.accepted_tokens + record.tokens}
            )

    async def ask(self, server: Coordinator) -> None:
        """Until cancelled. A server that does not answer is another's business."""
        self._server = server
        try:
            while True:
                try:
                    self._tell(await server.metrics())
                    await self._count(server)
                except LegionError as error:
                    logger.debug("standing not known reason=%s", error)
                self.save()
                self._changed()
                await asyncio.sleep(ASK_S)
        finally:
            self._server = None

    async def curve(self, most: int) -> CurveIs:
        """The whole run's loss in at most so many points; from a server that does not tell, its newest steps."""
        if self._server is None:
            return self._newest
        try:
            return drawn(await self._server.curve(min(most, MOST_POINTS)))
        except LegionError as error:
            logger.info("the run's curve is not known reason=%s", error)
            return self._newest

    def save(self) -> None:
        """Whole or not at all, and only what is new: a disk that sleeps is not to be woken for nothing."""
        if self._memory == self._saved:
            return
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(self._memory.model_dump_json(), encoding="utf-8")
            partial.replace(self._path)
            self._saved = self._memory
        except OSError as error:
            logger.warning("standing cannot be kept path=%s reason=%s", self._path, error.strerror)

    def _tell(self, view: MetricsView) -> None:
        rounds = view.rounds
        self._run_tokens = rounds.tokens if rounds else view.tokens
        self.run = RunNow(
            run_id=view.run_id,
            phase=view.phase,
            step=view.step,
            steps=view.steps,
            round=rounds.committed if rounds else None,
            rounds=rounds.rounds if rounds else None,
            workers=rounds.participants if rounds else 0,
            loss=view.recent[-1].loss if view.recent else None,
            validation_loss=view.evaluations[-1].loss if view.evaluations else None,
            tokens=self._run_tokens,
        )
        self._newest = CurveIs(
            training=tuple(CurvePoint(step=one.step, loss=one.loss) for one in view.recent),
            validation=tuple(CurvePoint(step=one.step, loss=one.loss) for one in view.evaluations),
        )

    async def _count(self, server: Coordinator) -> None:
        while self._memory.clusters:
            page = await server.rounds(self._memory.since)
            if not page.records:
                return
            tokens = sum(counted(record, self._memory.clusters) for record in page.records)
            self._memory = self._memory.model_copy(
                update={
                    "accepted_tokens": self._memory.accepted_tokens + tokens,
                    "since": page.records[-1].round + 1,
                }
            )


def drawn(curve: LossCurve) -> CurveIs:
    """Each bucket at its last step."""
    tokens = itertools.accumulate(bucket.tokens for bucket in curve.training)
    return CurveIs(
        training=tuple(
            CurvePoint(step=one.last, tokens=read, loss=one.loss, least=one.least, most=one.most)
            for one, read in zip(curve.training, tokens, strict=True)
        ),
        validation=tuple(CurvePoint(step=one.step, tokens=one.tokens, loss=one.loss) for one in curve.validation),
        text=curve.sample.text if curve.sample else None,
        text_step=curve.sample.step if curve.sample else None,
    )


def counted(record: RoundRecord, clusters: dict[ClusterId, int]) -> int:
    """Our share of what the round counted of our cluster: members of one cluster share alike."""
    best = dict.fromkeys(clusters, 0)
    for span in record.spans:
        for inclusion in span.included:
            if inclusion.cluster in best:
                best[inclusion.cluster] = max(best[inclusion.cluster], inclusion.tokens)
    return sum(tokens // clusters[cluster] for cluster, tokens in best.items())


def _load(path: Path) -> Memory:
    try:
        return Memory.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValidationError) as error:
        logger.warning("standing starts anew path=%s reason=%s", path, error)
        return Memory()
