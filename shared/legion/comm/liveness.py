"""Whether a member that is connected is still there. Pure: what was heard when, and how long that may be ago.

Every member says each second, from its event loop, that it lives, whatever its compute thread does: a long micro-batch
is no silence. A stopped process, a machine without power and a network that drops everything are.

Invariant: only time in which the listener itself looked is held against the other. Who was stopped, starved or asleep
counts one look of it, so that it hears what has come meanwhile before it judges.
"""

from dataclasses import dataclass, replace
from typing import Final

BEAT_S: Final = 1.0  # between two words of a member that has nothing to say
LOOK_S: Final = 0.25
MOST_COUNTED_S: Final = 2 * LOOK_S  # of the time between two looks
# Three beats may be lost, or wait for a core that others keep busy: with twenty busy programs on two cores, loops of
# processes of the lowest priority, each beside a compute thread that was busy too, were late by 0.8 s at most in a
# minute. Some more is what a wireless network may take to find its next access point. Who is declared lost by mistake
# costs its cluster the steps since a restore point, not the run.
LEAST_S: Final = 4.0
MOST_S: Final = 20.0  # what gRPC's keepalive takes
FACTOR: Final = 3.0  # of the longest silence that was none
SLOWEST_AT_FIRST_S: Final = 2.5  # whoever has just begun builds its model, and opens its card
HALVES_S: Final = 20.0  # what was long is half as long after that


@dataclass(frozen=True, slots=True)
class Liveness:
    """`at`: of the last look, s of a clock that only goes forward; `slowest_s`: the longest silence of late."""

    at: float
    silent_s: float = 0.0
    slowest_s: float = SLOWEST_AT_FIRST_S

    def looked(self, now: float) -> "Liveness":
        """Nothing was heard since the last look, or nothing was there to be heard."""
        counted_s = min(max(0.0, now - self.at), MOST_COUNTED_S)
        slowest_s = self.slowest_s * 0.5 ** (counted_s / HALVES_S)
        return replace(self, at=max(now, self.at), silent_s=self.silent_s + counted_s, slowest_s=slowest_s)

    def heard(self, now: float) -> "Liveness":
        """A word or a piece of a tensor has come."""
        looked = self.looked(now)
        return replace(looked, silent_s=0.0, slowest_s=max(looked.slowest_s, looked.silent_s))

    def limit_s(self, carrying_s: float = 0.0) -> float:
        """`carrying_s`: what is under way from there, before the next word, takes so long."""
        return min(MOST_S, max(LEAST_S, FACTOR * self.slowest_s)) + carrying_s

    def is_lost(self, carrying_s: float = 0.0) -> bool:
        return self.silent_s > self.limit_s(carrying_s)
