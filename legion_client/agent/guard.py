"""Looks after this computer: reads the sensors, lets the policy decide, and says what follows, again and again."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psutil

from legion_client.agent.face import BY_HAND
from legion_client.machine.notices import Notice
from legion_client.machine.policy import Decision, Pause, decide
from legion_client.machine.presence import State
from legion_client.machine.probe import physical_cores
from legion_client.machine.readings import Readings
from legion_client.machine.reasons import Active
from legion_client.machine.schedule import local_time
from legion_client.machine.sensors import TICK_S, WAITING_TICK_S, open_sensors
from legion_client.machine.volume import MonthlyVolume
from legion_client.settings import Settings

# While the volunteer has paused: nothing that sensors tell changes that, and what the volunteer does comes at once.
PAUSED_TICK_S = 10.0
FORGOTTEN_S = 600.0  # after an engine has ended; else one that once took too much memory would never start again

Read = Callable[[], Awaitable[Readings]]


class Guard:
    """`decided` is called with every decision; `look_again` makes the next one come at once."""

    def __init__(
        self,
        read: Read,
        settings: Callable[[], Settings],
        known: Callable[[], Sequence[Active]],
        decided: Callable[[Decision, Readings], None],
        now: Callable[[], datetime] = lambda: local_time(time.time()),
        *,
        at_rest: Callable[[], bool] = lambda: False,
    ) -> None:
        """`known`: reasons that no sensor tells. `at_rest`: nothing is computed, so that nothing is to be stopped."""
        self._read = read
        self._settings = settings
        self._known = known
        self._decided = decided
        self._now = now
        self._at_rest = at_rest
        self._state = State()
        self._due = asyncio.Event()

    def look_again(self) -> None:
        self._due.set()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self._due.clear()
            readings = await self._read()
            decision, self._state = decide(self._settings(), self._state, readings, self._now(), self._known())
            self._decided(decision, readings)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick_s(decision)):
                    await self._due.wait()

    def _tick_s(self, decision: Decision) -> float:
        if not isinstance(decision, Pause):
            return WAITING_TICK_S if self._at_rest() else TICK_S
        by_hand = any(active.reason in BY_HAND for active in decision.reasons)
        return PAUSED_TICK_S if by_hand else WAITING_TICK_S


class Watch:
    """The sensors, and beside them what the agent knows by itself: its engine's memory, the cores."""

    def __init__(
        self,
        read: Read,
        notices: Callable[[], AsyncIterator[Notice]],
        engine: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`engine`: its process, if there is one."""
        self._read = read
        self._engine = engine
        self._clock = clock
        self._engine_bytes: int | None = None
        self._ran_at = clock()
        self._cores = physical_cores()
        self.notices = notices

    async def read(self) -> Readings:
        readings = await self._read()
        pid = self._engine()
        if pid is not None:
            self._ran_at = self._clock()
            with suppress(psutil.Error):
                self._engine_bytes = psutil.Process(pid).memory_info().rss
        held = self._engine_bytes if readings.engine_memory_bytes is None else readings.engine_memory_bytes
        if self._clock() - self._ran_at > FORGOTTEN_S:
            self._engine_bytes = held = None
        return replace(readings, engine_memory_bytes=held, physical_cores=readings.physical_cores or self._cores)


@asynccontextmanager
async def watching(
    home: Path, volume: MonthlyVolume, engine: Callable[[], int | None], computing_on_gpu: Callable[[], bool]
) -> AsyncIterator[Watch]:
    """This computer's sensors, until the block is left."""
    async with open_sensors(home, volume, computing_on_gpu=computing_on_gpu) as sensors:
        yield Watch(sensors.read, sensors.notices, engine)


async def nobody_watches() -> Readings:
    """Where nobody shares the computer with us."""
    return Readings()


async def nothing_comes() -> AsyncIterator[Notice]:
    """No notices there either."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
    yield
