"""Whether a membership that ended with an error is taken up again, and when. Pure."""

from dataclasses import dataclass

from legion.errors import (
    EngineDied,
    LegionError,
    ProtocolMismatch,
    Unauthenticated,
    WorkerDoubled,
    WorkerRevoked,
    WrongAuthority,
)
from legion_client.agent import restarts

JOINED = "This computer has joined {server}."
LEFT = "This computer has left {server}."
BROKE_OFF = "Taking part in the run broke off, and is tried again soon: {problem}."
NO_LONGER = "This computer no longer takes part: {problem}."
UNKEPT = "This holds until Legion ends and no longer: {problem}."
SENTENCES = (JOINED, LEFT, BROKE_OFF, NO_LONGER, UNKEPT)  # for translators
# Only the volunteer, or the server's operator, can do something about these.
FOR_GOOD = (WorkerRevoked, WorkerDoubled, WrongAuthority, Unauthenticated, ProtocolMismatch)
PAUSES_S = (30.0, 60.0, 120.0, 300.0, 600.0)  # after the first end, the second ...; the last repeats
FORGOTTEN_S = 1800.0  # ends longer ago say nothing about the next


@dataclass(frozen=True, slots=True)
class Ends:
    """Moments, s of a clock that only goes forward. `crashes`: those of them that were the engine's."""

    all: tuple[float, ...] = ()
    crashes: tuple[float, ...] = ()

    @property
    def hopeless(self) -> bool:
        return restarts.hopeless(self.crashes)


def ended(before: Ends, error: LegionError, now: float) -> tuple[Ends, float | None]:
    """With the pause before the next try; None: not before somebody asks for it."""
    recent = (*(moment for moment in before.all if now - moment < FORGOTTEN_S), now)
    crashes = restarts.counted(before.crashes, now) if isinstance(error, EngineDied) else before.crashes
    ends = Ends(recent, crashes)
    if isinstance(error, FOR_GOOD) or ends.hopeless:
        return ends, None
    return ends, PAUSES_S[min(len(recent), len(PAUSES_S)) - 1]
