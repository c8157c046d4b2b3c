"""Valves whose time passes only while somebody waits at them, so that what they let by can be told exactly."""

import asyncio

from legion.comm.bucket import BURST_S, LEAST_BURST_BYTES, Valve


class RecordingValve(Valve):
    """Remembers when what passed, and how long pieces waited."""

    def __init__(self, time: "FakeTime") -> None:
        super().__init__(time.now, time.wait)
        self._time = time
        self.log: list[tuple[float, int]] = []

    def count(self, size_bytes: int) -> None:
        super().count(size_bytes)
        self.log.append((self._time.now(), size_bytes))


class FakeTime:
    """s from 0; waiting takes no real time."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, most_s: float) -> None:
        await asyncio.sleep(0)
        if not event.is_set():
            self._now += most_s

    def valve(self, bytes_per_s: float | None = None) -> RecordingValve:
        valve = RecordingValve(self)
        valve.limit(bytes_per_s)
        return valve

    def assert_kept(self, valve: RecordingValve, bytes_per_s: float, *, largest: int = 0) -> None:
        """In any time at most the rate and one burst passed, or one piece where it is `largest`."""
        burst = max(LEAST_BURST_BYTES, bytes_per_s * BURST_S, largest)
        for first, (began, _) in enumerate(valve.log):
            total = 0
            for moment, size in valve.log[first:]:
                total += size
                assert total <= bytes_per_s * (moment - began) * (1 + 1e-9) + burst + 1
