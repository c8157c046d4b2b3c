"""How one thing about this computer is read: within a time limit, rarely after a failure, never raising.

A source is either asked (`Sensor`, a coroutine: D-Bus, X11) or probed (`Probe`, a call that may block: files, drivers).
Its `Slot` remembers what it said last and when to read it again; `lane.py` does the reading.
"""

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Generic, Protocol, TypeVar

from legion.errors import LegionError

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Clock = Callable[[], float]

# Ten times what the slowest healthy source needs on a loaded computer.
LIMIT_S = 1.0
FIRST_RETRY_S = 30.0
LONGEST_RETRY_S = 600.0
# A tick may come a little early; a source is not skipped for that.
EARLY = 0.8


class Sensor(Protocol[T_co]):
    """Something that answers without blocking the loop; None when it does not know."""

    async def read(self) -> T_co | None: ...


class Probe(Protocol[T_co]):
    """Something that may block, and so is called in a thread; None when it does not know."""

    def read(self) -> T_co | None: ...


def retry_after_s(failures: int) -> float:
    """How long a source rests after so many failures in a row: 30 s, doubled each time, at most ten minutes."""
    return min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 16), LONGEST_RETRY_S)


class Patience:
    """With one source that may fail. The log hears of the first failure and of the recovery, not of what is between."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0

    @property
    def resting(self) -> bool:
        return self._failures > 0 and self._clock() < self._retry_at

    @property
    def is_tried(self) -> bool:
        """The source failed the last time."""
        return self._failures > 0

    def failed(self, reason: str) -> None:
        self._failures += 1
        wait_s = retry_after_s(self._failures)
        self._retry_at = self._clock() + wait_s
        if self._failures == 1:
            logger.warning("sensor cannot be read sensor=%s reason=%s retry_s=%.0f", self.name, reason, wait_s)

    def worked(self) -> None:
        if self._failures:
            logger.info("sensor can be read again sensor=%s failures=%d", self.name, self._failures)
        self._failures = 0


# What a source raises that answers nonsense, refuses, or is gone; a time limit is an OSError too.
FAILURES = (LegionError, OSError, EOFError, LookupError, TypeError, ValueError, struct.error)


def in_words(error: BaseException) -> str:
    """Why a source failed, for the log."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a source is read, and after how long it is cut off."""

    period_s: float
    limit_s: float = LIMIT_S


class Slot(Generic[T]):
    """One source, what it said last, and when it is due. `slow` ones share their thread with nobody."""

    def __init__(self, name: str, source: Sensor[T] | Probe[T], pace: Pace, clock: Clock) -> None:
        self.name = name
        self.read: Callable[[], Any] = source.read
        self.pace = pace
        self.asked = iscoroutinefunction(source.read)
        self.value: T | None = None
        self.slow = False
        self._busy = False
        self._began: float | None = None
        self._patience = Patience(name, clock)
        self._clock = clock

    @property
    def due(self) -> bool:
        """False as long as an earlier reading is under way, also one that was cut off and hangs in its thread."""
        if self._busy or self._patience.resting:
            return False
        return self._began is None or self._clock() - self._began >= EARLY * self.pace.period_s

    @property
    def fails(self) -> bool:
        """It raised, or was cut off, the last time."""
        return self._patience.is_tried

    def begin(self) -> None:
        self._busy = True
        self._began = self._clock()

    def finish(self, value: T | None) -> None:
        self._busy = False
        self.value = value
        self._patience.worked()

    def fail(self, error: BaseException) -> None:
        self._busy = False
        self.value = None
        self._patience.failed(in_words(error))

    def cut_off(self) -> None:
        """The reading goes on where nobody waits for it; until it comes back there is no other."""
        self.value = None
        self._patience.failed(f"no answer in {self.pace.limit_s:.1f} s")

    def came_back(self) -> None:
        """The reading that was cut off is over; what it found is too old to be used."""
        self._busy = False
