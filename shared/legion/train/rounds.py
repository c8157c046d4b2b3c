"""What one member of a cluster does in a run of several: steps, and between them the borders of rounds.

Beside `loop`, which it uses for the steps themselves. All members of a cluster take the same turns here, because each
turn follows from plans, the log and verdicts alone.
"""

from collections.abc import Callable
from typing import Protocol

from legion.config import RunConfig
from legion.data.loader import Loader
from legion.errors import LegionError, PeerLost, StepAborted
from legion.ids import Step
from legion.outer.member import EASE_STEPS, RoundMember
from legion.train.loop import Assignment, Training
from legion.zero.engine import Zero3


class Keeper(Protocol):
    """Keeps the member's local state over a restart. Called between turns, when nothing changes it."""

    def entered(self) -> None:
        """Work begins that a state kept before knows nothing of."""

    def stepped(self) -> None:
        """A step was committed."""

    def reached(self) -> None:
        """Another anchor."""

    def left(self, *, complete: bool) -> None:
        """Nothing follows; `complete`: nor is anything to come back for."""


class RoundTraining:
    """One member's run, from the round in which its cluster enters to the last."""

    def __init__(
        self,
        config: RunConfig,
        training: Training,
        zero: Zero3,
        loader: Loader,
        rounds: RoundMember,
        *,
        newcomer: bool,
        optimizer_steps: int = 0,
        keeper: Keeper | None = None,
        goes_on: Callable[[], None] | None = None,
        waits: Callable[[LegionError], bool] = lambda _: False,
    ) -> None:
        """`optimizer_steps`: that the moments in the slice stand for.

        `goes_on`: brings `rounds` to where its cluster was; None: it enters with a round. `waits`: whether another plan
        may follow on this error; then nothing is kept before `leave`.
        """
        self._config = config
        self._training = training
        self._zero = zero
        self._loader = loader
        self._rounds = rounds
        self._steps = 0  # by this engine
        self._newcomer = newcomer and not optimizer_steps
        self._optimizer_steps = optimizer_steps
        self._keeper = keeper
        self._goes_on = goes_on
        self._waits = waits

    def run(self, first_round: int) -> int:
        """Until the last anchor is reached, or `training.stopping`; the steps of the run that anchors stand for."""
        rounds, stopping = self._rounds, self._training.stopping
        entered = True
        if self._goes_on is None:
            entered = rounds.enter(first_round)
        else:
            self._goes_on()
        if stopping.is_set():
            return self._done
        if self._keeper is not None:
            self._keeper.entered()
        self._zero.start(Step(0), self._optimizer_steps)
        try:
            if not entered:
                self._zero.wait_at_border(rounds)  # raises what broke the cluster
            self._turns()
        except (PeerLost, StepAborted) as error:  # an aborted step changes nothing: what was done before it is whole
            pace = self._training.pace
            if not (isinstance(error, StepAborted) and (pace.given_up or pace.serving)):
                if not self._waits(error):
                    self.leave()
                raise
        self._zero.stop()
        self.leave()
        return self._done

    def _turns(self) -> None:
        rounds, stopping = self._rounds, self._training.stopping
        evaluated = kept = rounds.anchor
        while not rounds.complete and not stopping.is_set():
            if rounds.contributed:
                self._training.pace.contributed()
                if self._training.pace.serving:
                    return
                if self._training.regrouping.is_set():
                    raise StepAborted("the cluster breaks off for another member")
            self._training.pace.between()
            self._turn()
            if self._evaluation_due(evaluated):
                if self._training.pace.serving:
                    return  # to evaluate is to compute, and the others cannot without our share
                self._evaluate()
                evaluated = rounds.anchor
            if self._keeper is not None and rounds.anchor > kept and not rounds.complete:
                self._keeper.reached()
                kept = rounds.anchor

    @property
    def contributed(self) -> int:
        """The newest round that a contribution was made for."""
        return self._rounds.contributed_round

    def leave(self) -> None:
        """Keep what is to be kept of this member; nothing follows."""
        if self._keeper is not None:
            self._keeper.left(complete=self._rounds.complete)

    @property
    def _done(self) -> int:
        """Steps of the run that our anchor stands for."""
        return min(self._config.steps, self._rounds.anchor * self._config.rounds.steps)

    def _turn(self) -> None:
        """One step, or one wait for the next anchor."""
        batch_count = self._rounds.micro_batches
        blocks = batch_count * self._loader.blocks_each
        first = self._rounds.next_blocks(blocks)
        if first is None:
            self._rounds.wait()
            self._training.pace.idled()
            if self._training.stopping.is_set() or (self._training.pace.serving and self._rounds.contributed):
                return
            self._training.pace.between()  # moving to the anchor is work too
            self._zero.wait_at_border(self._rounds)
            return
        at = self._rounds.at
        self._rounds.took(blocks)
        ease = min(1.0, (self._steps + 1) / EASE_STEPS) if self._newcomer else 1.0
        last = self._training.stopping.is_set()
        work = Assignment(self._zero.step, at, first, batch_count, ease=ease, last=last)
        self._training.step(work, border=self._rounds)
        self._steps += 1
        if self._keeper is not None:
            self._keeper.stepped()

    def _evaluation_due(self, evaluated: int) -> bool:
        if self._rounds.anchor == evaluated:
            return False
        every = self._config.evaluation.every_steps // self._config.rounds.steps
        return self._rounds.complete or (every > 0 and self._rounds.anchor // every > evaluated // every)

    def _evaluate(self) -> None:
        """The held-out loss of the anchor, not of what this cluster makes of it."""
        with self._rounds.showing_anchor():
            self._zero.offer_anew()
            self._training.steps_done = self._done
            self._training.evaluate()
        self._zero.offer_anew()
