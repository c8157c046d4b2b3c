"""Which programs run, and what they take of processor and memory without us: the running processes, gone through once.

Going through all processes costs most of all that we read. What a process is called and who started it is therefore
remembered; a process may still become another program, so young ones are asked again each time and old ones in turn.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from legion_client.machine.sensing import Clock

# Starters (Steam, Lutris, wine) become the game within seconds.
YOUNG_S = 60.0
OLD_SHARE = 16


@dataclass(frozen=True, slots=True)
class Activity:
    programs: frozenset[str]
    load_of_others: float | None  # 0 to 1 of all cores, since the last reading; None in the first
    memory_bytes: int
    memory_of_others_bytes: int
    engine_memory_bytes: int | None  # of the processes that we started; what they held last if none runs


@dataclass(slots=True)
class _Known:
    name: str
    ours: bool
    since: float


class Processes:
    """Ours is this process and all that descend from it."""

    def __init__(self, clock: Clock = time.monotonic, pids: Callable[[], Iterable[int]] = psutil.pids) -> None:
        self._clock = clock
        self._pids = pids
        self._me = psutil.Process()
        self._known: dict[int, _Known] = {}
        self._own: dict[int, psutil.Process] = {}
        self._times: tuple[float, float, float] | None = None
        self._round = 0
        self._engine_bytes: int | None = None

    @property
    def own_pids(self) -> frozenset[int]:
        """As of the last reading."""
        return frozenset(self._own) | {self._me.pid}

    def read(self) -> Activity:
        self._go_through(self._pids())
        memory = psutil.virtual_memory()
        ours_s, ours_bytes, engine_bytes = self._own_use()
        self._engine_bytes = engine_bytes or self._engine_bytes
        return Activity(
            programs=frozenset(known.name for known in self._known.values() if known.name),
            load_of_others=self._load(ours_s),
            memory_bytes=memory.total,
            memory_of_others_bytes=max(0, memory.total - memory.available - ours_bytes),
            engine_memory_bytes=self._engine_bytes,
        )

    def _go_through(self, pids: Iterable[int]) -> None:
        now = self._clock()
        self._round = (self._round + 1) % OLD_SHARE
        before, self._known = self._known, {}
        # Parents mostly have lower numbers than their children, and are so known before them.
        for pid in sorted(pids):
            known = before.get(pid)
            if known is None or now - known.since < YOUNG_S or pid % OLD_SHARE == self._round:
                known = self._ask(pid, known, now)
            if known is not None:
                self._known[pid] = known
        self._own = {pid: self._process(pid) for pid, known in self._known.items() if known.ours}

    def _ask(self, pid: int, known: _Known | None, now: float) -> _Known | None:
        # What ran before us is not young, as far as we know.
        since = now if self._times else now - YOUNG_S
        try:
            process = psutil.Process(pid)
            if known is not None:
                known.name = program_name(process.name())
                return known
            with process.oneshot():
                return _Known(program_name(process.name()), self._is_ours(process), since)
        except psutil.NoSuchProcess:
            return None
        except psutil.Error:  # of another user, on some systems
            return known or _Known("", ours=False, since=since)

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == self._me.pid:
            return True
        parent = process.ppid()
        return parent == self._me.pid or (parent in self._known and self._known[parent].ours)

    def _process(self, pid: int) -> psutil.Process:
        if pid == self._me.pid:
            return self._me
        return self._own.get(pid) or psutil.Process(pid)

    def _own_use(self) -> tuple[float, int, int]:
        """Processor seconds and resident bytes of ours, and bytes without this process.

        What a child used that has ended is counted with its parent, where the system does so.
        """
        seconds, sizes = 0.0, {}
        for pid, process in self._own.items():
            try:
                seconds += sum(process.cpu_times()[:4])
                sizes[pid] = process.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        total = sum(sizes.values())
        return seconds, total, total - sizes.get(self._me.pid, 0)

    def _load(self, ours_s: float) -> float | None:
        times = psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is counted as its host's already.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        before, self._times = self._times, (total_s, idle_s, ours_s)
        return None if before is None else load_of_others(before, self._times)


def load_of_others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float | None:
    """Of (all, idle, ours) in processor seconds, the share 0 to 1 that others used; None if no time has passed."""
    all_s, idle_s, ours_s = (late - early for early, late in zip(before, after, strict=True))
    if all_s <= 0:
        return None
    return min(1.0, max(0.0, (all_s - max(0.0, idle_s) - max(0.0, ours_s)) / all_s))


def program_name(name: str) -> str:
    """As users write it in the list of exclusive programs."""
    return name.lower().removesuffix(".exe")
