"""Leaving room on a line that others share: slower before what we move doubles its round trip. Pure.

The delay above the least one of the last minutes is a queue, and ours (LEDBAT, RFC 6817, 2.4.2 and 4.2: base delay,
the least of the newest samples). Where it nears the base itself, the rate is cut by a part, everything else lets it
grow by a fixed amount a second (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms", 1989).
"""

from dataclasses import dataclass, replace
from typing import Final

FLOOR_S: Final = 0.010  # that a round trip may take beyond twice the base: what schedulers and radios do by themselves
AIM: Final = 0.5  # of the queue that is allowed, at which it slows down: until that shows, the queue grows further
LAN_S: Final = 0.005  # a base below it is no line to the internet: there is nothing to share
PART_S: Final = 60.0  # of the window over which the base is the least ...
PARTS: Final = 10  # ... and how many there are: a route that becomes longer is known after ten minutes
NEWEST: Final = 3  # samples of which the least counts: one that the processor held up says nothing
LOADED_BYTES_PER_S: Final = 32_000  # who moves less is not the cause
LEAST_BYTES_PER_S: Final = 32_000  # it never gets slower: a round of a small model still ends
DRAINED_S: Final = 1.5  # in which a queue should have left: the longer it is, the more the rate is cut ...
LEAST_CUT, MOST_CUT = 0.1, 0.3  # ... between these parts of it
LATE: Final = 1.25  # of what moves, that a valve may be open for: a busy processor does not use every turn
EMPTY: Final = 0.25  # of the queue that is allowed: below it, what had to leave has left
LEAST_SETTLING_S: Final = 3.0  # what had passed our valve before waits in the kernel's buffers, some MB of it
MOST_SETTLING_S: Final = 5.0
GROWTH_PER_S: Final = 0.04  # of the rate at which it was too much
NEAR: Final = (0.95, 1.05)  # of that rate: between them ...
CAUTION: Final = 0.25  # ... it grows by this part of that
FREE_AFTER_S: Final = 60.0  # without load, or this far above the last trouble, there is no limit


@dataclass(frozen=True, slots=True)
class Line:
    """`bytes_per_s`: how fast it may be used; None: as fast as it goes. Times are s of a clock that goes forward."""

    bytes_per_s: float | None = None
    least_s: tuple[tuple[int, float], ...] = ()  # round trips by part of the window
    newest_s: tuple[float, ...] = ()
    too_fast: float = 0.0  # bytes/s, when it was slowed down last
    settles_at: float = float("-inf")  # until then the queue of before empties, and tells nothing new
    loaded_at: float = float("-inf")
    at: float = 0.0

    @property
    def base_s(self) -> float | None:
        return min((least for _, least in self.least_s), default=None)

    @property
    def most_s(self) -> float | None:
        """That a round trip may take. None: nothing is known, or it is no line to the internet."""
        base_s = self.base_s
        return None if base_s is None or base_s <= LAN_S else 2 * base_s + FLOOR_S

    @property
    def delayed(self) -> bool:
        base_s, most_s = self.base_s, self.most_s
        if base_s is None or most_s is None or len(self.newest_s) < NEWEST:
            return False
        return min(self.newest_s) > base_s + AIM * (most_s - base_s)

    @property
    def empty(self) -> bool:
        base_s, most_s = self.base_s, self.most_s
        if base_s is None or most_s is None or len(self.newest_s) < NEWEST:
            return False
        return max(self.newest_s) < base_s + EMPTY * (most_s - base_s)


def sampled(line: Line, round_trip_s: float, moved_bytes_per_s: float, now: float) -> Line:
    """After one round trip, at a moment in which so much is moved."""
    elapsed_s = min(max(0.0, now - line.at), 1.0) if line.at else 0.0
    loaded = moved_bytes_per_s >= LOADED_BYTES_PER_S
    line = replace(
        line,
        least_s=_window(line.least_s, round_trip_s, now),
        newest_s=(*line.newest_s, round_trip_s)[-NEWEST:],
        loaded_at=now if loaded else line.loaded_at,
        at=now,
    )
    if line.most_s is None:
        return replace(line, bytes_per_s=None)
    if now < line.settles_at and not line.empty:
        return line
    if line.delayed:
        return _slower(line, moved_bytes_per_s, now) if loaded else line
    return _faster(line, elapsed_s, now)


def _window(least_s: tuple[tuple[int, float], ...], round_trip_s: float, now: float) -> tuple[tuple[int, float], ...]:
    part = int(now // PART_S)
    young = {number: least for number, least in least_s if part - PARTS < number <= part}
    young[part] = min(round_trip_s, young.get(part, round_trip_s))
    return tuple(young.items())


def _slower(line: Line, moved_bytes_per_s: float, now: float) -> Line:
    """Its effect is waited for: a queue of so many seconds leaves by what the line carries more than comes."""
    at_most = min(line.bytes_per_s or moved_bytes_per_s, LATE * moved_bytes_per_s)
    waiting_s = min(line.newest_s) - (line.base_s or 0.0)
    cut = min(MOST_CUT, max(LEAST_CUT, waiting_s / DRAINED_S))
    slower = max(LEAST_BYTES_PER_S, (1 - cut) * at_most)
    settles_at = now + min(MOST_SETTLING_S, max(LEAST_SETTLING_S, waiting_s / cut))
    return replace(line, bytes_per_s=slower, too_fast=at_most, settles_at=settles_at, newest_s=())


def _faster(line: Line, elapsed_s: float, now: float) -> Line:
    if line.bytes_per_s is None:
        return line
    near = NEAR[0] * line.too_fast < line.bytes_per_s < NEAR[1] * line.too_fast
    faster = line.bytes_per_s + GROWTH_PER_S * (CAUTION if near else 1.0) * elapsed_s * line.too_fast
    if now - line.loaded_at > FREE_AFTER_S or faster > 4 * line.too_fast:
        return replace(line, bytes_per_s=None)
    return replace(line, bytes_per_s=faster)
