"""The agent's life as a pure state machine: state and event in, state and actions out.

    joining -> preparing -> ready -> loading -> training -> finishing -> ended
       |          |           |        |           |            |
       +----------+-----------+--------+-----------+-> stopping -> leaving -> ended

A changed configuration leads back from `preparing` or `ready` to `joining`, and so do a plan that the server gave up
from `loading` or `training`, and a member lost by a cluster that is not the only one.
`loading` is only there when the run starts from a checkpoint, or from what an engine before kept. `finishing` sends
what is left to send however long it takes; `leaving` does the same within a deadline. An error is kept until the end,
and the first one wins: what follows it is its consequence.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from legion.errors import EngineDied, LegionError, PeerLost, RunError
from legion.ids import Epoch, WorkerId
from legion.messages import Plan, RunPhase, WorkerState
from legion_client.agent.rejoin import WayBack

STOP_S = 30.0  # for the engine to finish or abort its step
LEAVE_S = 15.0  # to send what is left


class Phase(StrEnum):
    JOINING = "joining"
    PREPARING = "preparing"
    READY = "ready"
    LOADING = "loading"
    TRAINING = "training"
    FINISHING = "finishing"
    STOPPING = "stopping"
    LEAVING = "leaving"
    ENDED = "ended"


BUSY = (Phase.PREPARING, Phase.READY, Phase.LOADING, Phase.TRAINING)  # the engine is up, nobody asked it to stop

_SAID: dict[Phase, WorkerState] = {
    Phase.JOINING: "joining",
    Phase.PREPARING: "preparing",
    Phase.READY: "ready",
    Phase.LOADING: "training",  # it follows the plan: a coordinator that heard "ready" would plan again
    Phase.TRAINING: "training",
    Phase.FINISHING: "training",
    Phase.STOPPING: "leaving",
    Phase.LEAVING: "leaving",
    Phase.ENDED: "leaving",
}


@dataclass(frozen=True, slots=True)
class State:
    phase: Phase = Phase.JOINING
    plan: Plan | None = None  # the one we follow
    error: LegionError | None = None  # why we leave, if not by our own wish
    lost_peer: WorkerId | None = None

    @property
    def said(self) -> WorkerState:
        """What heartbeats call it."""
        return _SAID[self.phase]

    @property
    def epoch(self) -> Epoch:
        return self.plan.epoch if self.plan else Epoch(0)


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Configuration and data are here."""


@dataclass(frozen=True, slots=True)
class EngineListens:
    pass


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The operator changed what will be trained; what was prepared is of no use."""


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """The plan that the server counts us a member of; 0: of none."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PlanArrived:
    """A plan that this worker is a member of."""

    plan: Plan
    kept: bool = False  # an engine of this worker left a local state


@dataclass(frozen=True, slots=True)
class SliceBuilt:
    """Our slice of the checkpoint, laid out for the plan; None when none is needed."""

    path: Path | None
    back: WayBack | None = None


@dataclass(frozen=True, slots=True)
class RunPhaseSeen:
    phase: RunPhase


@dataclass(frozen=True, slots=True)
class EngineFinished:
    pass


@dataclass(frozen=True, slots=True)
class EngineLeft:
    pass


@dataclass(frozen=True, slots=True)
class EngineFailed:
    error: LegionError
    lost_peer: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The process ended; `death` describes it for the case that nobody expected it."""

    death: EngineDied


@dataclass(frozen=True, slots=True)
class StopAsked:
    reason: str


@dataclass(frozen=True, slots=True)
class PartFailed:
    """A part of the agent met an error that trying again does not cure."""

    error: LegionError


@dataclass(frozen=True, slots=True)
class Drained:
    """Every record and slice is acknowledged."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    phase: Phase  # the one it was set for


Event = (
    Downloaded
    | EngineListens
    | ConfigChanged
    | EpochSeen
    | PlanArrived
    | SliceBuilt
    | RunPhaseSeen
    | EngineFinished
    | EngineLeft
    | EngineFailed
    | EngineGone
    | StopAsked
    | PartFailed
    | Drained
    | DeadlinePassed
)

# Actions: what the service must do now.


@dataclass(frozen=True, slots=True)
class StartEngine:
    pass


@dataclass(frozen=True, slots=True)
class PrepareAgain:
    """End the engine and what it gave us to deliver, then download as at the start."""


@dataclass(frozen=True, slots=True)
class FetchSlice:
    plan: Plan


@dataclass(frozen=True, slots=True)
class SendTrain:
    plan: Plan
    resume_slice: Path | None
    back: WayBack | None = None


@dataclass(frozen=True, slots=True)
class SendStop:
    reason: str


@dataclass(frozen=True, slots=True)
class KillEngine:
    pass


@dataclass(frozen=True, slots=True)
class Drain:
    """Say `Drained` once nothing is left to send."""


@dataclass(frozen=True, slots=True)
class SetDeadline:
    phase: Phase
    after_s: float


Action = StartEngine | PrepareAgain | FetchSlice | SendTrain | SendStop | KillEngine | Drain | SetDeadline


def transition(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """What follows from `event`. Every event is allowed in every state: late news of a phase left behind is ignored."""
    if state.phase is Phase.ENDED:
        return state, ()
    match event:
        case StopAsked(reason):
            return _stop(state, reason)
        case PartFailed(error):
            return _stop(_blame(state, error), str(error))
        case RunPhaseSeen(run_phase):
            return _run_phase(state, run_phase)
        case EngineFinished() | EngineLeft() | EngineFailed() | EngineGone():
            return _engine_ended(state, event)
        case Drained() if state.phase in (Phase.FINISHING, Phase.LEAVING):
            return replace(state, phase=Phase.ENDED), ()
        case DeadlinePassed(phase) if phase == state.phase:
            return _late(state)
        case ConfigChanged() if state.phase in (Phase.PREPARING, Phase.READY):
            return replace(state, phase=Phase.JOINING), (PrepareAgain(),)
        case EpochSeen(epoch) if state.phase in (Phase.LOADING, Phase.TRAINING) and epoch != state.epoch:
            # The run was resumed without us: what the engine computes now, nobody takes.
            return replace(state, phase=Phase.JOINING, plan=None), (PrepareAgain(),)
        case Downloaded() | EngineListens() | PlanArrived() | SliceBuilt():
            return _forward(state, event)
    return state, ()


def _forward(
    state: State, event: Downloaded | EngineListens | PlanArrived | SliceBuilt
) -> tuple[State, tuple[Action, ...]]:
    match state.phase, event:
        case Phase.JOINING, Downloaded():
            return replace(state, phase=Phase.PREPARING), (StartEngine(),)
        case Phase.PREPARING, EngineListens():
            return replace(state, phase=Phase.READY), ()
        case Phase.READY, PlanArrived(plan, kept) if plan.first_step > 0 or kept:
            return replace(state, phase=Phase.LOADING, plan=plan), (FetchSlice(plan),)
        case Phase.READY, PlanArrived(plan):
            return replace(state, phase=Phase.TRAINING, plan=plan), (SendTrain(plan, None),)
        case Phase.LOADING, SliceBuilt(path, back) if state.plan is not None:
            return replace(state, phase=Phase.TRAINING), (SendTrain(state.plan, path, back),)
    return state, ()


def _stop(state: State, reason: str) -> tuple[State, tuple[Action, ...]]:
    if state.phase in (Phase.PREPARING, Phase.READY):
        # No member has heard of this engine yet: nobody needs its goodbye.
        left, actions = _leave(state)
        return left, (KillEngine(), *actions)
    if state.phase in BUSY:
        return replace(state, phase=Phase.STOPPING), (SendStop(reason), SetDeadline(Phase.STOPPING, STOP_S))
    if state.phase in (Phase.JOINING, Phase.FINISHING):
        return _leave(state)
    return state, ()


def _leave(state: State) -> tuple[State, tuple[Action, ...]]:
    return replace(state, phase=Phase.LEAVING), (Drain(), SetDeadline(Phase.LEAVING, LEAVE_S))


def _run_phase(state: State, run_phase: RunPhase) -> tuple[State, tuple[Action, ...]]:
    if run_phase == "failed" and state.phase in BUSY:
        return _stop(_blame(state, RunError("the server says that the run failed")), "the run failed")
    # Members learn the end from their engine; a worker that was never planned in learns it here.
    if run_phase == "complete" and state.phase in (Phase.JOINING, Phase.PREPARING, Phase.READY):
        return _stop(state, "the run is complete")
    return state, ()


def _engine_ended(
    state: State, event: EngineFinished | EngineLeft | EngineFailed | EngineGone
) -> tuple[State, tuple[Action, ...]]:
    if state.phase not in (*BUSY, Phase.STOPPING):
        return state, ()
    match event:
        case EngineFinished() if state.phase is Phase.STOPPING:
            return _leave(state)
        case EngineFinished():
            return replace(state, phase=Phase.FINISHING), (Drain(),)
        case EngineLeft():
            return _leave(state)
        case EngineFailed(PeerLost(), lost_peer) if state.phase in BUSY and state.plan and state.plan.cluster:
            # The other clusters train on: back, to be planned in again.
            return replace(state, phase=Phase.JOINING, plan=None, lost_peer=lost_peer), (PrepareAgain(),)
        case EngineFailed(error, lost_peer):
            # Its own words say more than "the run failed" heard from the server.
            blamed = replace(state, error=error) if type(state.error) in (type(None), RunError) else state
            return _leave(replace(blamed, lost_peer=lost_peer))
        case EngineGone(death):
            return _leave(state if state.phase is Phase.STOPPING else _blame(state, death))


def _late(state: State) -> tuple[State, tuple[Action, ...]]:
    if state.phase is Phase.STOPPING:
        left, actions = _leave(state)
        return left, (KillEngine(), *actions)
    if state.phase is Phase.LEAVING:
        return replace(state, phase=Phase.ENDED), ()
    return state, ()


def _blame(state: State, error: LegionError) -> State:
    return replace(state, error=state.error or error)
