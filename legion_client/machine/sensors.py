"""All sensors together: one `Readings` whenever the agent wants to decide.

How often each is read while the agent asks every `TICK_S`, and why:

    every 2 s    idle, screen, game, programs and load, mains or battery: a pause is due within 3 s of what causes it
    every 4 s    heat: a processor warms up in seconds, and slowing down comes before pausing
    every 2 s    graphics cards while we compute on one, else every 10 s, a laptop's that may sleep every 60 s
    every 2 s    whether an engine that was killed has left a card's power limit lowered: the card is its owner's again;
                 less often after a driver's failure
    every 15 s   metered, free disk: change by a person's hand or slowly
    every 30 s   charge of the battery: percents take minutes
    every 60 s   the month's traffic is saved; it is counted in memory
    every 5 min  size of our folder, counted in slices of 10 ms
"""

import asyncio
import dataclasses
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from legion_client.machine.card_power import Note
from legion_client.machine.disk import Disk
from legion_client.machine.gpu import Gpus, NvidiaGpus, unread
from legion_client.machine.gpu_other import build_problem, other_gpus
from legion_client.machine.lane import Lane
from legion_client.machine.notices import Notice
from legion_client.machine.probe import physical_cores
from legion_client.machine.processes import Processes
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.sensing import Clock, Pace, Slot
from legion_client.machine.sources import Sources
from legion_client.machine.volume import MonthlyVolume
from legion_client.paths import Home

if sys.platform == "linux":
    from legion_client.machine.sources_linux import open_sources
elif sys.platform == "win32":
    from legion_client.machine.sources_windows import open_sources
elif sys.platform == "darwin":
    from legion_client.machine.sources_macos import open_sources
else:
    from legion_client.machine.sources_other import open_sources

# While training; and while waiting, where a minute of quiet has to pass anyway and half the wake-ups do.
TICK_S = 2.0
WAITING_TICK_S = 5.0
# Readings wait this long for a source that is slow, and then do without its news.
WAIT_S = 0.4
QUICK, HEAT, SLOW = Pace(TICK_S), Pace(2 * TICK_S), Pace(15.0)
# Four sources in turn, each with a limit of its own.
IDLE = Pace(TICK_S, limit_s=5.0)
# A driver that sets up its card takes seconds.
GPU = Pace(TICK_S, limit_s=5.0)
SPACE = Pace(15.0, limit_s=5.0)
SLOW_DRIVER = "The NVIDIA driver takes long to answer: heat and memory of its cards are not known."


class Sensors:
    """Made by `open_sensors`; belongs to one event loop."""

    def __init__(
        self,
        sources: Sources,
        volume: MonthlyVolume,
        home: Path,
        computing_on_gpu: Callable[[], bool],
        clock: Clock,
        *,
        mask: str | None = None,
    ) -> None:
        self._sources = sources
        self._lane = Lane()
        self._physical_cores = physical_cores()
        processes = Processes(clock)
        gpus = NvidiaGpus(lambda: processes.own_pids, computing_on_gpu, mask=mask, clock=clock)
        self._idle = Slot("idle", sources.idle, IDLE, clock)
        self._screen = Slot("full screen", sources.screen, QUICK, clock)
        self._game = Slot("game", sources.game, QUICK, clock)
        self._metered = Slot("metered", sources.metered, SLOW, clock)
        self._power = Slot("battery", sources.power, QUICK, clock)
        self._activity = Slot("programs", processes, QUICK, clock)
        self._heat = Slot("processor temperature", sources.heat, HEAT, clock)
        self._gpus = Slot("graphics cards", gpus, GPU, clock)
        self._without_driver, self._build_problem = other_gpus(), build_problem()
        self._cards: tuple[GpuReading, ...] = ()  # that were seen last
        self._space = Slot("disk", Disk(home), SPACE, clock)
        self._month = Slot("monthly volume", volume, QUICK, clock)
        self._left_lowered: Slot[None] = Slot("power limit left lowered", Note(Home(home).power_note), GPU, clock)

    async def read(self) -> Readings:
        """What is known now, after reading what is due; takes `WAIT_S` at most and never raises."""
        started = self._lane.start([slot for slot in self._slots if slot.due])
        if started:
            await asyncio.wait(started, timeout=WAIT_S)
        return self._readings()

    def notices(self) -> AsyncIterator[Notice]:
        """What the system announces, for ever; to be iterated by one task."""
        return self._sources.notices()

    async def close(self) -> None:
        await self._lane.close()
        await self._sources.close()

    @property
    def _slots(self) -> tuple[Slot[Any], ...]:
        return (
            self._idle,
            self._screen,
            self._game,
            self._metered,
            self._activity,
            self._power,
            self._heat,
            self._month,
            self._gpus,
            self._space,
            self._left_lowered,
        )

    def _readings(self) -> Readings:
        power, activity, space = self._power.value, self._activity.value, self._space.value
        screen, gpus = self._screen.value, self._seen()
        return Readings(
            idle_s=self._idle.value,
            on_battery=power.on_battery if power else None,
            battery_percent=power.percent if power else None,
            cpu_celsius=self._heat.value,
            cpu_load_of_others=activity.load_of_others if activity else None,
            memory_bytes=activity.memory_bytes if activity else None,
            memory_of_others_bytes=activity.memory_of_others_bytes if activity else None,
            engine_memory_bytes=activity.engine_memory_bytes if activity else None,
            physical_cores=self._physical_cores,
            free_disk_bytes=space.free_bytes if space else None,
            used_disk_bytes=space.used_bytes if space else None,
            disk_bytes=space.total_bytes if space else None,
            programs=activity.programs if activity else frozenset(),
            full_screen=screen.full_screen if screen else None,
            game=either(screen.game if screen else None, self._game.value),
            metered=self._metered.value,
            month_bytes=self._month.value,
            gpus=(*gpus.cards, *numbered_after(gpus.cards, self._without_driver)),
            gpu_problem=" ".join(filter(None, (gpus.problem, self._build_problem))) or None,
        )

    def _seen(self) -> Gpus:
        """A driver that is slow to answer, or fails to, has not lost its cards."""
        if self._gpus.value is None:
            silent = bool(self._cards) or self._gpus.fails
            return Gpus(tuple(unread(card) for card in self._cards), SLOW_DRIVER if silent else None)
        self._cards = self._gpus.value.cards
        return self._gpus.value


def numbered_after(cards: Sequence[GpuReading], others: Sequence[GpuReading]) -> Iterator[GpuReading]:
    """Those that no driver has numbered."""
    first = max((card.index for card in cards), default=-1) + 1
    return (dataclasses.replace(card, index=first + place) for place, card in enumerate(others))


class Once:
    """All cards, of whichever driver: for a single look."""

    def __init__(self, mask: str | None) -> None:
        self._nvidia = NvidiaGpus(frozenset, lambda: False, mask=mask)

    def read(self) -> Gpus:
        found = self._nvidia.read() or Gpus()
        self._nvidia.close()
        return Gpus((*found.cards, *numbered_after(found.cards, other_gpus())), found.problem)


async def cards_once(environment: Mapping[str, str] = os.environ) -> Gpus:
    """All cards, where nobody reads sensors. A driver that hangs is left behind in its thread, after its limit."""
    lane = Lane()
    slot = Slot("graphics cards", Once(environment.get("CUDA_VISIBLE_DEVICES")), GPU, time.monotonic)
    try:
        await asyncio.wait(lane.start([slot]), timeout=GPU.limit_s)
    finally:
        await lane.close()
    return Gpus(problem=SLOW_DRIVER) if slot.value is None else slot.value


def either(one: bool | None, other: bool | None) -> bool | None:
    """Of two who tell of the same: yes if one says so, unknown if neither knows."""
    if one is None or other is None:
        return other if one is None else one
    return one or other


@asynccontextmanager
async def open_sensors(
    home: Path,
    volume: MonthlyVolume,
    *,
    computing_on_gpu: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] = os.environ,
    sources: Sources | None = None,
    clock: Clock = time.monotonic,
) -> AsyncIterator[Sensors]:
    """Sensors of this computer, until the block is left; what hangs then is left behind in daemon threads.

    `home` is the folder whose disk and size count; `computing_on_gpu` says whether our engine uses a graphics card now.
    """
    chosen = open_sources(environment, clock) if sources is None else sources
    mask = environment.get("CUDA_VISIBLE_DEVICES")
    sensors = Sensors(chosen, volume, home, computing_on_gpu, clock, mask=mask)
    try:
        yield sensors
    finally:
        await sensors.close()
        volume.save()
