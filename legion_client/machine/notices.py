"""What the system announces: it goes to sleep, it shuts down, it is awake again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

from legion_client.machine.sensing import Clock

# Awake time and wall time part by the length of a sleep; less than this is a clock that was set right.
SHORTEST_SLEEP_S = 30.0
LOOK_S = 20.0


class Coming(StrEnum):
    SLEEP = "sleep"
    SHUTDOWN = "shutdown"
    AWAKE = "awake"


def _nobody_waits() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Notice:
    """After `within_s` the system no longer waits for us; 0 if it does not wait at all, None if that is not known.

    `ready` tells it that it need not wait longer; calling it again, or not at all, does no harm.
    """

    coming: Coming
    within_s: float | None = 0.0
    ready: Callable[[], None] = _nobody_waits


class SleptThrough:
    """Only tells afterwards, by the clocks, that the system slept: for systems that announce nothing to us."""

    def __init__(self, awake: Clock = time.monotonic, wall: Clock = time.time, look_s: float = LOOK_S) -> None:
        self._awake = awake
        self._wall = wall
        self._look_s = look_s

    async def notices(self) -> AsyncIterator[Notice]:
        before = (self._awake(), self._wall())
        while True:
            await asyncio.sleep(self._look_s)
            now = (self._awake(), self._wall())
            if slept(before, now, self._look_s):
                yield Notice(Coming.AWAKE)
            before = now


def slept(before: tuple[float, float], now: tuple[float, float], expected_s: float) -> bool:
    """Of (awake, wall) seconds at two looks: whether the computer slept between them.

    The awake clock stands still in sleep on Linux and macOS; on Windows it goes on, and the look itself comes late.
    """
    passed_awake_s, passed_wall_s = now[0] - before[0], now[1] - before[1]
    return max(passed_wall_s - passed_awake_s, passed_awake_s - expected_s) >= SHORTEST_SLEEP_S
