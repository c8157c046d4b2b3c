"""What the agent's state machine speaks of: phases, its state, what may happen, and what must be done then.

    joining -> preparing -> ready -> loading -> training -> finishing -> ended
       |          |           |        |         |   ^          |
       |          |           |        |         v   |          |
       |          |           |        |  holding, serving      |
       |          |           |        |         |              |
       |          |           |        |         v              |
       |          |           |        |      pausing           |
       |          |           |        |         |              |
       +----------+-----------+--------+-------> paused         |      (and back to joining)
       |          |           |        |         |              |
       +----------+-----------+--------+-------> stopping -> leaving -> ended

A changed configuration leads back from `preparing` or `ready` to `joining`, and so do a plan that the server gave up
from `loading` or `training`, a member lost by a cluster that is not the only one, and an engine that crashed. `loading`
is only there when the run starts from a checkpoint, or from what an engine before kept. `finishing` sends what is left
to send however long it takes; `leaving` does the same within a deadline. Who waits for the server's next run is
`waiting` once this one is over, and begins anew with it. In `holding` the engine lives and computes
nothing, and in `serving` others of its cluster still use its slice; `pausing` waits for its end, and in `paused` there
is none. Who is `ready` for long goes on to `dozing`, in which the engine has ended too; a plan leads from there to
`waking`, until it listens again where it did. An error is kept until the end, and the first one wins: what follows it
is its consequence.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from legion.errors import EngineDied, LegionError
from legion.ids import Epoch, RunId, WorkerId
from legion.messages import Broken, Plan, RunPhase, WorkerState
from legion_client.agent.rejoin import WayBack

NO_EPOCH = Epoch(0)


class Phase(StrEnum):
    JOINING = "joining"
    PREPARING = "preparing"
    READY = "ready"
    DOZING = "dozing"
    WAKING = "waking"
    LOADING = "loading"
    TRAINING = "training"
    SERVING = "serving"
    HOLDING = "holding"
    PAUSING = "pausing"
    PAUSED = "paused"
    FINISHING = "finishing"
    WAITING = "waiting"
    STOPPING = "stopping"
    LEAVING = "leaving"
    ENDED = "ended"


# The engine is up, nobody asked it to stop.
BUSY = (Phase.PREPARING, Phase.READY, Phase.WAKING, Phase.LOADING, Phase.TRAINING, Phase.SERVING, Phase.HOLDING)
# There is nothing of a run yet that an engine would have to say goodbye to, or the others to be told of.
UNPLANNED = (Phase.JOINING, Phase.PREPARING, Phase.READY, Phase.DOZING)
# Nothing is computed that would have to be stopped.
AT_REST = (Phase.READY, Phase.DOZING, Phase.HOLDING, Phase.PAUSED, Phase.WAITING, Phase.ENDED)
QUIET = (Phase.JOINING, Phase.PREPARING, *AT_REST)  # little or nothing goes over the line

_SAID: dict[Phase, WorkerState] = {
    Phase.JOINING: "joining",
    Phase.PREPARING: "preparing",
    Phase.READY: "ready",
    Phase.DOZING: "ready",  # the engine that a plan starts is soon there
    Phase.WAKING: "training",  # as in `loading`
    Phase.LOADING: "training",  # it follows the plan: a coordinator that heard "ready" would plan again
    Phase.TRAINING: "training",
    Phase.SERVING: "training",  # its cluster goes on, and a round waits for that
    Phase.HOLDING: "paused",
    Phase.PAUSING: "paused",
    Phase.PAUSED: "paused",
    Phase.FINISHING: "training",
    Phase.WAITING: "joining",
    Phase.STOPPING: "leaving",
    Phase.LEAVING: "leaving",
    Phase.ENDED: "leaving",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """Of the volunteer, or of the rules: to rest."""

    reason: str
    frees_memory: bool = False  # the engine's, at once: also the GPU's, all of which only the end of its process gives
    serves: bool = False  # others of the cluster may still use our slice, from host memory, until their round ends

    def is_more_than(self, other: "Wish | None") -> bool:
        return other is None or self.frees_memory > other.frees_memory or other.serves > self.serves


@dataclass(frozen=True, slots=True)
class State:
    phase: Phase = Phase.JOINING
    plan: Plan | None = None  # the one we follow
    kept: bool = False  # an engine of ours left a local state that may be of use for it
    error: LegionError | None = None  # why we leave, if not by our own wish
    lost_peer: WorkerId | None = None
    broken: Broken | None = None  # our engine waits for a plan that takes the place of this one
    wish: Wish | None = None  # to rest
    computes_nothing: bool = False  # of an engine that serves: it has said so
    finishing: bool = False  # asked to rest once this round's contribution is made
    crashes: tuple[float, ...] = ()  # of the engine, lately; s of a clock
    death: LegionError | None = None  # the newest of these crashes
    trouble: LegionError | None = None  # the crash after which it is not started again by itself
    departing: bool = False  # no engine any more, and what it kept for the others is on its way to the server
    unattended: bool = False  # nobody would see a pause after crashes: the agent ends instead
    waits: bool = False  # once the run is over, for the next one; else the agent ends with it
    run: RunId | None = None  # that the server spoke of last

    @property
    def alone(self) -> bool:
        """No other member waits for what we compute."""
        return self.plan is None or len(self.plan.members) == 1

    @property
    def said(self) -> WorkerState:
        """What heartbeats call it."""
        return _SAID[self.phase]

    @property
    def epoch(self) -> Epoch:
        return self.plan.epoch if self.plan else NO_EPOCH


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Configuration and data are here."""


@dataclass(frozen=True, slots=True)
class EngineListens:
    measures: bool = False  # clusters follow from links, which only an engine that is there can measure


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
class RunSeen:
    """The run that the server has now; the next one follows its end."""

    run: RunId


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
    at: float = 0.0  # s of a clock that only goes forward


@dataclass(frozen=True, slots=True)
class PlanCannotGoOn:
    """For want of another member; the engine waits for a plan of those who are left."""

    broken: Broken
    lost_peer: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The process ended; `death` describes it for the case that nobody expected it."""

    death: EngineDied
    at: float = 0.0  # s of a clock that only goes forward


@dataclass(frozen=True, slots=True)
class EngineHeld:
    """It computes nothing any more, as it was told to."""


@dataclass(frozen=True, slots=True)
class PauseAsked:
    wish: Wish


@dataclass(frozen=True, slots=True)
class FinishAsked:
    """To pause once this round's contribution is made."""


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    in_person: bool = False  # also after crashes, which no rule may forget


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
    at: float = 0.0  # s of a clock that only goes forward


Event = (
    Downloaded
    | EngineListens
    | ConfigChanged
    | EpochSeen
    | PlanArrived
    | SliceBuilt
    | RunPhaseSeen
    | RunSeen
    | EngineFinished
    | EngineLeft
    | EngineFailed
    | PlanCannotGoOn
    | EngineGone
    | EngineHeld
    | PauseAsked
    | FinishAsked
    | ResumeAsked
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
class EndEngine:
    """And everything that is only done for it; what it said last is delivered, if the server takes it soon."""


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
    within_s: float  # for the step under way
    rests: bool = False  # see the engine's Stop


@dataclass(frozen=True, slots=True)
class SendPause:
    reason: str
    after_contribution: bool = False
    serves: bool = False


@dataclass(frozen=True, slots=True)
class SendResume:
    pass


@dataclass(frozen=True, slots=True)
class KillEngine:
    pass


@dataclass(frozen=True, slots=True)
class Doze:
    """End the engine, and nothing else."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Say `Drained` once nothing is left to send."""


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Of this phase; another one for the same phase takes the place of the first."""

    phase: Phase
    after_s: float


Action = (
    StartEngine
    | PrepareAgain
    | EndEngine
    | FetchSlice
    | SendTrain
    | SendStop
    | SendPause
    | SendResume
    | KillEngine
    | Doze
    | Drain
    | SetDeadline
)
