"""How the volunteer sees the agent: one face, one headline. Pure."""

from dataclasses import dataclass

from legion.errors import LegionError
from legion_client.agent.life import Phase, State
from legion_client.control.messages import Face, RunNow, Why
from legion_client.machine.reasons import Reason

BY_HAND = frozenset((Reason.PAUSED, Reason.SNOOZED, Reason.FINISHED))
WORRYING = frozenset((Reason.SETTINGS_UNUSABLE, Reason.ENGINE_FAILED))

_AT_WORK: dict[Phase, tuple[Face, str]] = {
    Phase.JOINING: ("syncing", "Fetches the run's data"),
    Phase.PREPARING: ("syncing", "Starts the training engine"),
    Phase.READY: ("waiting", "Ready: waits for the run to take this computer in"),
    Phase.LOADING: ("syncing", "Fetches the model"),
    Phase.TRAINING: ("training", "Training"),
    Phase.HOLDING: ("paused", "Paused"),
    Phase.PAUSING: ("paused", "Pausing"),
    Phase.PAUSED: ("paused", "Paused"),
    Phase.FINISHING: ("syncing", "Sends what is left to send"),
    Phase.STOPPING: ("syncing", "Stopping"),
    Phase.LEAVING: ("syncing", "Leaving the run"),
    Phase.ENDED: ("waiting", "The run is over"),
}


@dataclass(frozen=True, slots=True)
class Look:
    face: Face
    headline: str


def look(
    state: State | None,
    reasons: tuple[Why, ...],
    *,
    rests: bool,
    away: LegionError | None,
    run: RunNow | None = None,
) -> Look:
    """`state`: of the membership, None without one; `rests`: the policy says so; `away`: why no server is heard."""
    if rests and reasons:
        first = reasons[0]
        face: Face = "warning" if first.slug in WORRYING else "paused" if first.slug in BY_HAND else "waiting"
        return Look(face, first.sentence)
    if state is None:
        return Look("warning", in_full(away)) if away else Look("waiting", "This computer has not joined a run yet.")
    if state.trouble is not None:
        return Look("warning", f"The training engine failed several times in a row: {state.trouble}")
    if away is not None:
        return Look("offline", f"The server is not heard: {in_full(away)}")
    face, headline = _AT_WORK[state.phase]
    if state.phase is Phase.TRAINING:
        headline = "Finishes this round, then pauses" if state.finishing else _training(run)
    if state.phase in (Phase.HOLDING, Phase.PAUSING, Phase.PAUSED) and state.wish is not None:
        headline = state.wish.reason
    return Look(face, headline)


def in_full(error: LegionError) -> str:
    """What is wrong, and what can be done."""
    text = str(error).rstrip(".")
    if not text.startswith("http"):
        text = text[:1].upper() + text[1:]
    return f"{text}. {error.hint}".rstrip()


def _training(run: RunNow | None) -> str:
    if run is None:
        return "Takes part in the run"
    where = f"step {run.step:,} of {run.steps:,}" if run.round is None else f"round {run.round:,} of {run.rounds:,}"
    others = run.workers - 1
    company = "on its own" if others < 1 else f"with {others:,} other computer{'s' if others > 1 else ''}"
    return f"In {where}, {company}"
