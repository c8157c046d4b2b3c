"""How the volunteer sees the agent: one face, one headline. Pure."""

from dataclasses import dataclass

from legion.errors import LegionError
from legion_client.agent.life import Phase, State
from legion_client.control.messages import Face, RunNow, Said, Why
from legion_client.machine.reasons import Reason

BY_HAND = frozenset((Reason.PAUSED, Reason.SNOOZED, Reason.FINISHED))
WORRYING = frozenset((Reason.SETTINGS_UNUSABLE, Reason.ENGINE_FAILED))

NOT_JOINED = "This computer has not joined a run yet."
FINISHES = "Finishes this round, then pauses"
HALTED = "The run is paused by its operator"
_IN_STEPS = (
    "In step {step} of {steps}, on its own",
    "In step {step} of {steps}, with 1 other computer",
    "In step {step} of {steps}, with {others} other computers",
)
_IN_ROUNDS = (
    "In round {round} of {rounds}, on its own",
    "In round {round} of {rounds}, with 1 other computer",
    "In round {round} of {rounds}, with {others} other computers",
)
RESTING = (Phase.SERVING, Phase.HOLDING, Phase.PAUSING, Phase.PAUSED)
_AT_WORK: dict[Phase, tuple[Face, str]] = {
    Phase.JOINING: ("syncing", "Fetches the run's data"),
    Phase.PREPARING: ("syncing", "Starts the training engine"),
    Phase.READY: ("waiting", "Ready: waits for the run to take this computer in"),
    Phase.DOZING: ("waiting", "Ready: waits for the run to take this computer in"),
    Phase.WAKING: ("syncing", "Starts the training engine"),
    Phase.LOADING: ("syncing", "Fetches the model"),
    Phase.TRAINING: ("training", "Training"),
    Phase.SERVING: ("paused", "Pausing"),
    Phase.HOLDING: ("paused", "Paused"),
    Phase.PAUSING: ("paused", "Pausing"),
    Phase.PAUSED: ("paused", "Paused"),
    Phase.FINISHING: ("syncing", "Sends what is left to send"),
    Phase.WAITING: ("waiting", "The run is over: waits for the next one"),
    Phase.STOPPING: ("syncing", "Stopping"),
    Phase.LEAVING: ("syncing", "Leaving the run"),
    Phase.ENDED: ("waiting", "The run is over"),
}
# All that is said here, for translators.
SENTENCES = (NOT_JOINED, FINISHES, HALTED, *_IN_STEPS, *_IN_ROUNDS, *(text for _, text in _AT_WORK.values()))


@dataclass(frozen=True, slots=True)
class Look:
    face: Face
    said: tuple[Said, ...]

    @property
    def headline(self) -> str:
        return " ".join(map(str, self.said))


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
        return Look(face, first.said or (Said(text=first.sentence),))
    if state is None:
        return Look("warning", in_full(away)) if away else Look("waiting", (Said(text=NOT_JOINED),))
    if state.trouble is not None:
        problem = {"problem": str(state.trouble).rstrip(".")}
        return Look(
            "warning", (Said(text="The training engine failed several times in a row: {problem}.", values=problem),)
        )
    if away is not None:
        return Look("offline", in_full(away, "The server is not heard: {problem}."))
    face, headline = _AT_WORK[state.phase]
    said = Said(text=headline)
    if state.phase is Phase.TRAINING:
        said = Said(text=FINISHES) if state.finishing else _training(run)
    if state.phase is Phase.HOLDING and state.wish is None:
        said = Said(text=HALTED)
    if state.phase in RESTING and state.wish is not None:
        said = Said(text=state.wish.reason)
    return Look(face, (said,))


def in_full(error: LegionError, frame: str = "{problem}.") -> tuple[Said, ...]:
    """What is wrong, and what can be done. `frame`: the sentence that says so."""
    text = str(error).rstrip(".")
    if frame.startswith("{") and not text.startswith("http"):
        text = text[:1].upper() + text[1:]
    said = Said(text=frame, values={"problem": text})
    return (said, Said(text=error.hint)) if error.hint else (said,)


def _training(run: RunNow | None) -> Said:
    if run is None:
        return Said(text="Takes part in the run")
    others = run.workers - 1
    alone, one, more = _IN_STEPS if run.round is None else _IN_ROUNDS
    values: dict[str, str | int] = {"others": others}
    if run.round is None:
        values |= {"step": run.step, "steps": run.steps}
    else:
        values |= {"round": run.round, "rounds": run.rounds or 0}
    return Said(text=alone if others < 1 else one if others == 1 else more, values=values)
