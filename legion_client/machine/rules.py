"""Every rule of a polite guest, one function a subject: settings and readings in, candidates for reasons out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from legion_client.control.messages import Axis, Mode
from legion_client.machine import schedule
from legion_client.machine.presence import State, sane
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Active, Reason
from legion_client.settings import Settings
from legion_client.settings.sections import Modes

GB = 10**9
GIB = 2**30
FREE_MEMORY_BYTES = 512 * 2**20  # of RAM, for other programs to grow into
LEAST_CARD_BYTES = GIB  # on less than this nothing can be trained


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reason, if its condition holds; with times, only after it has held or been away for so long."""

    active: Active
    holds: bool
    rise_s: float = 0.0
    fall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What rules look at."""

    settings: Settings
    readings: Readings
    now: datetime
    state: State
    in_use: bool | None

    @property
    def quiet_s(self) -> float:
        return self.settings.programs.resume_after_s

    def remembered(self, reason: Reason, gpu: int | None = None) -> bool:
        """Whether the reason held at the last decision."""
        return self.state.latch((reason, gpu)).on

    def quietly(self, holds: bool, reason: Reason, gpu: int | None = None, **figures: str | int) -> Candidate:
        """Holds at once, and until its cause has been away for the volunteer's time of quiet."""
        told = figures | {"quiet_s": int(self.quiet_s)} | ({} if gpu is None else {"gpu": gpu})
        return Candidate(Active(reason, gpu, told), holds, fall_s=self.quiet_s)


def candidates(view: View) -> Iterator[Candidate]:
    """All of them, whatever axis they stop. A rule that is switched off has none: it lets go at once."""
    yield from _wishes(view)
    yield from _programs(view)
    yield from _power(view)
    yield from _processor(view)
    yield from _memory(view)
    yield from _disk(view)
    yield from _network(view)
    yield from _use(view)
    for gpu in view.readings.gpus:
        yield from _graphics(view, gpu)


def mode(modes: Modes, axis: Axis, now: datetime) -> Mode:
    """`auto` again once its time has passed."""
    chosen: Mode = getattr(modes, axis)
    until: datetime | None = getattr(modes, f"{axis}_until")
    return "auto" if until is not None and until.timestamp() <= now.timestamp() else chosen


def card_bytes(settings: Settings, gpu: GpuReading, others_bytes: int | None) -> int | None:
    """The most that training may take of a card where others held so much when it was let in. None: nobody knows."""
    if gpu.memory_bytes is None:
        return None
    most = gpu.memory_bytes * settings.graphics.memory_percent // 100
    if others_bytes is None or not settings.graphics.yield_memory:
        return most
    # Twice what must stay free: others may grow by once that before we yield.
    return max(0, min(most, gpu.memory_bytes - others_bytes - 2 * _free_card_bytes(settings)))


def memory_bytes(view: View) -> int | None:
    """The most RAM to hold; where nobody knows whether the computer is in use, as if it were."""
    total = view.readings.memory_bytes
    memory = view.settings.memory
    return None if total is None else total * (memory.idle_percent if idle(view) else memory.in_use_percent) // 100


def disk_bytes(settings: Settings, readings: Readings) -> tuple[int | None, str]:
    """The most that our folder may hold, and the setting that says so."""
    limits = settings.disk
    found: list[tuple[int, str]] = []
    if limits.most_gb > 0:
        found.append((int(limits.most_gb * GB), "disk.most_gb"))
    if readings.disk_bytes is not None:
        found.append((readings.disk_bytes * limits.most_percent // 100, "disk.most_percent"))
    return min(found, default=(None, "disk.most_gb"))


def idle(view: View) -> bool:
    return view.in_use is False


def _wishes(view: View) -> Iterator[Candidate]:
    modes, settings, now = view.settings.modes, view.settings, view.now
    until = modes.paused_until.timestamp() if modes.paused_until else None
    if modes.paused and (until is None or now.timestamp() < until):
        yield Candidate(Active(Reason.PAUSED if until is None else Reason.SNOOZED, until=until), True)
    offs: tuple[tuple[Axis, Reason], ...] = (
        ("cpu", Reason.CPU_OFF),
        ("gpu", Reason.GPU_OFF),
        ("network", Reason.NETWORK_OFF),
    )
    for axis, reason in offs:
        if mode(modes, axis, now) == "never":
            end: datetime | None = getattr(modes, f"{axis}_until")
            yield Candidate(Active(reason, until=end.timestamp() if end else None), True)
    if settings.schedule.enabled and not schedule.allowed(settings.schedule.week, now):
        yield Candidate(Active(Reason.SCHEDULE, until=schedule.changes_at(settings.schedule.week, now)), True)


def _programs(view: View) -> Iterator[Candidate]:
    programs, running = view.settings.programs, view.readings.programs
    lists = (
        (programs.exclusive, Reason.EXCLUSIVE_PROGRAM),
        (programs.exclusive_graphics, Reason.EXCLUSIVE_GRAPHICS),
    )
    for names, reason in lists:
        found = sorted(name for name in names if program_name(name) in running)
        if names:
            yield view.quietly(bool(found), reason, program=", ".join(found))
    if programs.pause_games:
        yield view.quietly(view.readings.game is True, Reason.GAME)
    if programs.pause_full_screen:
        yield view.quietly(view.readings.full_screen is True, Reason.FULL_SCREEN)


def program_name(text: str) -> str:
    """As sensors name programs: in lower case, without a folder or ".exe"."""
    return text.strip().replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")


def _power(view: View) -> Iterator[Candidate]:
    power, on_battery = view.settings.power, view.readings.on_battery is True
    if power.pause_on_battery:
        yield view.quietly(on_battery, Reason.BATTERY)
    charge, least = sane(view.readings.battery_percent), power.minimum_charge_percent
    low = on_battery and charge is not None and charge < least
    yield view.quietly(low, Reason.BATTERY_LOW, charge=round(charge or 0), least=least)


def _processor(view: View) -> Iterator[Candidate]:
    processor = view.settings.processor
    celsius = sane(view.readings.cpu_celsius)
    limit = processor.resume_celsius if view.remembered(Reason.CPU_HOT) else processor.pause_celsius
    yield view.quietly(
        celsius is not None and celsius > limit,
        Reason.CPU_HOT,
        celsius=round(celsius or 0),
        resume_celsius=processor.resume_celsius,
    )
    load = sane(view.readings.cpu_load_of_others)
    if processor.busy_percent:
        busy = load is not None and load * 100 > processor.busy_percent
        figures: dict[str, str | int] = {"load": round((load or 0) * 100), "busy_s": processor.busy_s}
        yield Candidate(Active(Reason.CPU_BUSY, figures=figures), busy, processor.busy_s, processor.busy_s)


def _memory(view: View) -> Iterator[Candidate]:
    readings, most = view.readings, memory_bytes(view)
    held = readings.engine_memory_bytes
    if most is None or held is None or readings.memory_bytes is None:
        return
    setting = "memory.idle_percent" if idle(view) else "memory.in_use_percent"
    if readings.memory_of_others_bytes is not None:
        most = min(most, max(0, readings.memory_bytes - readings.memory_of_others_bytes - FREE_MEMORY_BYTES))
    told: dict[str, str | int] = {
        "held_gb": f"{held / GIB:.1f}",
        "most_gb": f"{most / GIB:.1f}",
        "quiet_s": int(view.quiet_s),
    }
    yield Candidate(Active(Reason.MEMORY, figures=told, setting=setting), held > most, fall_s=view.quiet_s)


def _disk(view: View) -> Iterator[Candidate]:
    free, used = view.readings.free_disk_bytes, view.readings.used_disk_bytes
    least_gb = view.settings.disk.least_free_gb
    low = free is not None and free < least_gb * GB
    yield view.quietly(low, Reason.DISK_FULL, free_gb=f"{(free or 0) / GB:.1f}", least_gb=f"{least_gb:g}")
    most, setting = disk_bytes(view.settings, view.readings)
    told: dict[str, str | int] = {
        "used_gb": f"{(used or 0) / GB:.1f}",
        "most_gb": f"{(most or 0) / GB:.1f}",
        "quiet_s": int(view.quiet_s),
    }
    over = used is not None and most is not None and used > most
    yield Candidate(Active(Reason.DISK_SHARE, figures=told, setting=setting), over, fall_s=view.quiet_s)


def _network(view: View) -> Iterator[Candidate]:
    network, used = view.settings.network, view.readings.month_bytes
    if network.pause_when_metered:
        yield view.quietly(view.readings.metered is True, Reason.METERED)
    if network.month_gb > 0 and used is not None and used >= network.month_gb * GB:
        told: dict[str, str | int] = {"month_gb": f"{network.month_gb:g}", "used_gb": f"{used / GB:.1f}"}
        yield Candidate(Active(Reason.VOLUME_USED, figures=told, until=schedule.next_month(view.now)), True)


def _use(view: View) -> Iterator[Candidate]:
    """The idle time is a time of quiet itself: no other is added."""
    settings = view.settings
    minutes: dict[str, str | int] = {"minutes": settings.idle.minutes}
    if settings.idle.only:
        yield Candidate(Active(Reason.IN_USE, figures=minutes), view.in_use is True)
    elif not settings.graphics.in_use and view.readings.gpus:
        yield Candidate(Active(Reason.GPU_IN_USE, figures=minutes), view.in_use is True)
    if not settings.graphics.in_use and view.readings.gpus:
        # Where there is nothing else to compute on, that would wait for ever.
        instead = settings.processor.enabled and mode(settings.modes, "cpu", view.now) != "never"
        yield Candidate(Active(Reason.GPU_USE_UNKNOWN), view.in_use is None and instead)
    if sane(view.readings.idle_s) is None:
        unknown = sane(view.readings.cpu_load_of_others) is None
        yield Candidate(Active(Reason.USE_UNKNOWN if unknown else Reason.IDLE_UNKNOWN), True)
    if view.readings.gpu_problem:
        problem: dict[str, str | int] = {"problem": view.readings.gpu_problem.rstrip(".")}
        yield Candidate(Active(Reason.GPU_PROBLEM, figures=problem), True)


def _graphics(view: View, gpu: GpuReading) -> Iterator[Candidate]:
    graphics, index = view.settings.graphics, gpu.index
    about: dict[str, str | int] = {"gpu": index, "name": gpu.name}
    if not graphics.enabled:
        yield Candidate(Active(Reason.GPU_DISABLED, index, about), True)
    if index in graphics.excluded:
        yield Candidate(Active(Reason.GPU_EXCLUDED, index, about), True)
    if gpu.lost:
        yield Candidate(Active(Reason.GPU_LOST, index, about), True)
    celsius = sane(gpu.celsius)
    limit = graphics.resume_celsius if view.remembered(Reason.GPU_HOT, index) else graphics.pause_celsius
    yield view.quietly(
        celsius is not None and celsius > limit,
        Reason.GPU_HOT,
        index,
        celsius=round(celsius or 0),
        resume_celsius=graphics.resume_celsius,
    )
    if graphics.yield_memory:
        yield view.quietly(_memory_wanted(view, gpu), Reason.GPU_MEMORY, index)


def _memory_wanted(view: View, gpu: GpuReading) -> bool:
    """Others have grown into what they must find free; or, before we are let in, there is too little for us."""
    total, others = gpu.memory_bytes, gpu.memory_of_others_bytes
    if total is None or others is None:
        return False
    settings, held = view.settings, gpu.engine_memory_bytes
    before = view.state.others_bytes.get(gpu.index)
    if before is None or view.remembered(Reason.GPU_MEMORY, gpu.index):
        needed = LEAST_CARD_BYTES if held is None else held
        return total - others - 2 * _free_card_bytes(settings) < needed
    if held is None:
        held = card_bytes(settings, gpu, before) or 0
    return total - others - held < _free_card_bytes(settings)


def _free_card_bytes(settings: Settings) -> int:
    return settings.graphics.free_memory_mb * 10**6
