"""Whether the compute thread hangs, in a process whose loop lives. Pure: what was seen of it when.

It moves when a micro-batch begins or ends, and whenever it asks the network for a unit's weights or hands over its
gradient: so many times in a micro-batch as the model has units. Waiting for others is no standstill, they are watched
by other means; nor is resting, or writing to a disk, which happen between micro-batches.
"""

from dataclasses import dataclass, replace
from typing import Final

LOOK_S: Final = 1.0
MOST_COUNTED_S: Final = 2 * LOOK_S  # of the time between two looks: who was stopped or asleep did not hang
LEAST_S: Final = 60.0
FACTOR: Final = 10.0  # of the usual micro-batch
FIRST_S: Final = 600.0  # before a micro-batch was ever finished: kernels are built, and nothing is known


@dataclass(frozen=True, slots=True)
class Progress:
    """What the compute thread shows of itself."""

    micro_batch: int = 0  # so many were begun
    crossings: int = 0  # between it and the network
    computes: bool = False  # it is in a micro-batch, and does not wait for the network
    usual_s: float | None = None  # that a micro-batch takes


@dataclass(frozen=True, slots=True)
class Standstill:
    """`still_s`: for so long nothing has moved."""

    at: float
    seen: Progress = Progress()
    still_s: float = 0.0

    def looked(self, now: float, seen: Progress) -> "Standstill":
        moved = not seen.computes or (seen.micro_batch, seen.crossings) != (self.seen.micro_batch, self.seen.crossings)
        counted_s = min(max(0.0, now - self.at), MOST_COUNTED_S)
        return replace(self, at=max(now, self.at), seen=seen, still_s=0.0 if moved else self.still_s + counted_s)

    @property
    def limit_s(self) -> float:
        return FIRST_S if self.seen.usual_s is None else max(LEAST_S, FACTOR * self.seen.usual_s)

    @property
    def hangs(self) -> bool:
        return self.still_s > self.limit_s
