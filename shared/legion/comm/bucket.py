"""How fast bytes may pass, as the volunteer decided: a token bucket (RFC 2697, 3.1), and a valve in one direction.

Invariant: in any time of t seconds at most `bytes_per_s * t` and one burst pass, or one piece if that is larger.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

BURST_S: Final = 0.25  # of the rate, at once: short enough that a conversation on the same line goes on
LEAST_BURST_BYTES: Final = 16_384  # below it, framing would cost more than is sent


@dataclass(frozen=True, slots=True)
class Bucket:
    """Pure: `now` is in seconds of any clock; one that goes back stands still."""

    bytes_per_s: float
    level: float = 0.0  # bytes that may pass at `at`; below 0, so many are owed
    at: float = 0.0
    burst_s: float = BURST_S

    @property
    def burst_bytes(self) -> int:
        return max(LEAST_BURST_BYTES, int(self.bytes_per_s * self.burst_s))

    def wait_s(self, size_bytes: int, now: float) -> float:
        """Until a piece of this size may pass; a piece larger than a burst waits for a whole one, and owes the rest."""
        missing = min(size_bytes, self.burst_bytes) - self._level(now)
        # Of what is less than a byte, a clock's rounding may make a wait that never ends.
        return missing / self.bytes_per_s if missing >= 1 else 0.0

    def passed(self, size_bytes: int, now: float) -> "Bucket":
        return replace(self, level=self._level(now) - size_bytes, at=max(now, self.at))

    def at_rate(self, bytes_per_s: float, now: float, burst_s: float = BURST_S) -> "Bucket":
        """What has been saved or is owed stays, as far as the new rate's burst holds it."""
        after = replace(self, bytes_per_s=bytes_per_s, burst_s=burst_s)
        return replace(after, level=min(after.burst_bytes, self._level(now)), at=max(now, self.at))

    def _level(self, now: float) -> float:
        return min(self.burst_bytes, self.level + max(0.0, now - self.at) * self.bytes_per_s)


async def within(event: asyncio.Event, most_s: float) -> None:
    """Until it is set, but not longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await event.wait()


class Valve:
    """One direction of a worker's line: counts what passes, and holds it back where there is a limit.

    All methods on the loop. First come, first served.
    """

    def __init__(
        self,
        clock: Callable[[], float] | None = None,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = within,
    ) -> None:
        """`clock`: s, if not the loop's; `wait` lets its time pass."""
        self._clock = clock
        self._wait = wait
        self._bucket: Bucket | None = None
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self.passed_bytes = 0

    @property
    def limited(self) -> bool:
        return self._bucket is not None

    def limit(self, bytes_per_s: float | None, burst_s: float = BURST_S) -> None:
        """From now on, also for what waits already; None: no limit. `burst_s`: of the rate, that may pass at once."""
        if bytes_per_s is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = Bucket(bytes_per_s, at=self._now(), burst_s=burst_s)
        else:
            self._bucket = self._bucket.at_rate(bytes_per_s, self._now(), burst_s)
        self._changed.set()

    def piece_bytes(self, most: int) -> int:
        """How large pieces should be cut. Of half a burst: who comes late for one, as a busy processor does, finds the
        next one saved up, where of a whole burst the time would be lost."""
        return most if self._bucket is None else min(most, self._bucket.burst_bytes // 2)

    def least_s(self, size_bytes: int) -> float:
        """How long so much takes at least by our own limit: patience that must be added to a time limit."""
        return 0.0 if self._bucket is None else size_bytes / self._bucket.bytes_per_s

    async def through(self, size_bytes: int) -> None:
        """Returns when a piece may pass, and counts it."""
        if self._bucket is not None:
            async with self._turn:
                await self._waited(size_bytes)
        self.count(size_bytes)

    def count(self, size_bytes: int) -> None:
        """It passes without waiting; what follows waits for it."""
        self.passed_bytes += size_bytes
        if self._bucket is not None:
            self._bucket = self._bucket.passed(size_bytes, self._now())

    async def _waited(self, size_bytes: int) -> None:
        while self._bucket is not None and (wait_s := self._bucket.wait_s(size_bytes, self._now())) > 0:
            self._changed.clear()
            await self._wait(self._changed, wait_s)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()
