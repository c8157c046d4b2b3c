"""How the run and our part in it stand, as the server tells: asked now and then, remembered over restarts."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from legion.errors import LegionError
from legion.ids import RunId
from legion.reports import CreditView, LossCurve, MetricsView
from legion_client.agent.coordinator import Coordinator
from legion_client.control.messages import Contribution, CurveIs, CurvePoint, RunNow

logger = logging.getLogger(__name__)

ASK_S = 20.0
LAST_LOOK_S = 1.0
MOST_POINTS = 2000  # that a server gives
NOTHING = CreditView(run_id=RunId(""), tokens=0, rank=None, workers=0)


class Standing:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        path: Path,
        changed: Callable[[], None] = lambda: None,
        credited: Callable[[CreditView], None] = lambda _credit: None,
    ) -> None:
        """`credited` hears of every answer about our own part."""
        self._path = path
        self._changed = changed
        self._credited = credited
        self._credit = self._saved = _load(path)
        self._run_tokens = 0
        self.run: RunNow | None = None
        self._newest = CurveIs()
        self._server: Coordinator | None = None  # while it is asked

    @property
    def contribution(self) -> Contribution:
        mine = self._credit if self.run is None or self.run.run_id == self._credit.run_id else NOTHING
        share = min(1.0, mine.tokens / self._run_tokens) if self._run_tokens and mine.tokens else None
        return Contribution(accepted_tokens=mine.tokens, rank=mine.rank, ranked=mine.workers, share=share)

    async def ask(self, server: Coordinator) -> None:
        """Until cancelled."""
        self._server = server
        try:
            while True:
                await self.look(server)
                await asyncio.sleep(ASK_S)
        finally:
            self._server = None

    async def look(self, server: Coordinator) -> None:
        """Once. A server that does not answer is another's business."""
        try:
            self._tell(await server.metrics())
            self._credit = await server.credit()
            self._credited(self._credit)
        except LegionError as error:
            logger.debug("standing not known reason=%s", error)
        self.save()
        self._changed()

    async def last_look(self, server: Coordinator) -> None:
        """At the end of a membership: the last work counts too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                await self.look(server)

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
        if self._credit == self._saved:
            return
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(self._credit.model_dump_json(), encoding="utf-8")
            partial.replace(self._path)
            self._saved = self._credit
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


def _load(path: Path) -> CreditView:
    try:
        return CreditView.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return NOTHING
    except (OSError, ValidationError) as error:
        logger.warning("standing starts anew path=%s reason=%s", path, error)
        return NOTHING
