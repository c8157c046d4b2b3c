"""Tells what happens: sentences into the journal, changes to whoever follows the agent."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

from legion.errors import LegionError
from legion.reports import CreditView
from legion_client.agent.acceptance import SENTENCE as ACCEPTED
from legion_client.agent.acceptance import Acceptance
from legion_client.agent.journal import Journal
from legion_client.agent.life import Phase, State
from legion_client.control.messages import Happening, Said, Status
from legion_client.machine.policy import Decision, Pause
from legion_client.machine.reasons import said

MOST_WAITING = 200  # happenings that a slow follower may be behind

GOES_ON = (Phase.SERVING, Phase.HOLDING)  # from these the same training goes on
_ENTERED: dict[Phase, tuple[str, str]] = {
    Phase.READY: ("ready", "The training engine is ready; this computer waits to be taken in."),
    Phase.DOZING: (
        "ready",
        "The training engine ended to free memory; it starts again when it is needed.",
    ),
    Phase.FINISHING: ("complete", "The run is complete; what is left is being sent."),
    Phase.WAITING: ("run-over", "The run is over; this computer waits for the next one."),
}


_TRAINS = (
    "This computer trains on its own, from step {step} on.",
    "This computer trains together with one other computer, from step {step} on.",
    "This computer trains together with {others} other computers, from step {step} on.",
)
_HALTED = "The run is paused by its operator; this computer waits until it goes on."
_GOES_ON = "The run goes on."
_RESUMED = "Training goes on after {minutes} min."
_AWAY = "The server is not heard: {problem}. It is tried again; training goes on as far as it can."
_BACK = "The server is heard again, after {minutes} min."
_CRASHED = "The training engine ended unexpectedly: {problem}. It is started again."
_FAILED = "The training engine crashed {times} times: {problem}."
_LAST_WORDS = "Its last words: {words}"
# All that is said here, for translators.
SENTENCES = (
    *(text for _, text in _ENTERED.values()),
    *_TRAINS,
    *(_HALTED, _GOES_ON, _RESUMED, _AWAY, _BACK, _CRASHED, _FAILED, _LAST_WORDS, ACCEPTED),
)


class Follower:
    """What one of them has not been told yet."""

    def __init__(self) -> None:
        self.happenings: deque[Happening] = deque(maxlen=MOST_WAITING)
        self.due = asyncio.Event()
        self.status_due = True
        self.due.set()


class Teller:
    """Belongs to one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._acceptance = Acceptance(journal)
        self._followers: set[Follower] = set()
        self._away_since: float | None = None  # s since 1970
        journal.on_happening = self._happened

    def changed(self) -> None:
        """The status, or what it is made of."""
        for follower in self._followers:
            follower.status_due = True
            follower.due.set()

    def _happened(self, happening: Happening) -> None:
        for follower in self._followers:
            follower.happenings.append(happening)
            follower.due.set()

    async def follow(self, status: Callable[[], Status]) -> AsyncGenerator[Status | Happening, None]:
        follower = Follower()
        self._followers.add(follower)
        try:
            while True:
                await follower.due.wait()
                follower.due.clear()
                if follower.status_due:
                    follower.status_due = False
                    yield status()
                while follower.happenings:
                    yield follower.happenings.popleft()
        finally:
            self._followers.discard(follower)

    # In sentences.

    def decided(self, before: Decision | None, now: Decision, resting_since: float | None) -> float | None:
        """Since when (s since 1970) the rules let nothing be computed; None while they do."""
        rests, rested = isinstance(now, Pause), isinstance(before, Pause)
        told = [(one.reason, one.gpu) for one in now.reasons]
        told_before = [(one.reason, one.gpu) for one in before.reasons] if before else None
        if told != told_before or rests != rested:
            self.changed()
        if rests and (before is None or not rested or now.reasons[0].reason != before.reasons[0].reason):
            self._journal.add("paused", said(now.reasons[0]))
        if not rests and rested and resting_since is not None and before is not None:
            minutes = round((time.time() - resting_since) / 60)
            after = Said(text=_RESUMED, values={"minutes": minutes})
            self._journal.add("resumed", after, said(before.reasons[0]))
        if not rests:
            return None
        return resting_since if rested else time.time()

    def heard(self, away: LegionError | None) -> None:
        """Whether the server was heard the last time, and if not, why."""
        if away is not None and self._away_since is None:
            self._away_since = time.time()
            self._journal.add(
                "server-away", Said(text=_AWAY, values={"problem": str(away).rstrip(".")}), level="warning"
            )
        elif away is None and self._away_since is not None:
            minutes = max(1, round((time.time() - self._away_since) / 60))
            self._away_since = None
            self._journal.add("server-back", Said(text=_BACK, values={"minutes": minutes}))

    def credited(self, credit: CreditView) -> None:
        """What the server has accepted of ours by now."""
        self._acceptance.count(credit)

    def moved(self, before: State, state: State) -> None:
        self.changed()
        if state.death is not None and state.death is not before.death:
            self._crashed(state, state.death)
        if state.phase is before.phase:
            return
        if state.phase is Phase.TRAINING and before.phase not in GOES_ON and state.plan is not None:
            others = len(state.plan.members) - 1
            values: dict[str, str | int] = {"others": others, "step": state.plan.first_step}
            self._journal.add("training", Said(text=_TRAINS[min(others, 2)], values=values))
        if state.phase is Phase.HOLDING and state.wish is None:
            self._journal.add("run-paused", _HALTED)
        if before.phase is Phase.HOLDING and before.wish is None and state.phase is Phase.TRAINING:
            self._journal.add("run-resumed", _GOES_ON)
        if state.phase in _ENTERED:
            kind, text = _ENTERED[state.phase]
            self._journal.add(kind, text)

    def _crashed(self, state: State, death: LegionError) -> None:
        if state.trouble is None:
            self._journal.add(
                "engine-crashed", Said(text=_CRASHED, values={"problem": str(death).rstrip(".")}), level="warning"
            )
            return
        log = str(state.trouble.details.get("log", "")).strip()
        values: dict[str, str | int] = {"times": len(state.crashes), "problem": str(state.trouble).rstrip(".")}
        parts = [Said(text=_FAILED, values=values)]
        if log:
            parts.append(Said(text=_LAST_WORDS, values={"words": log.splitlines()[-1]}))
        self._journal.add("engine-failed", *parts, level="error")
