"""What this computer gives at this moment: one pure function of settings, readings, time and what it decided before.

A rule that holds stops its axes; a mode of `always` on an axis lets it ignore all but what `Rule.always_too` marks.
Nothing runs without the network, nor without a processor or a card that may compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from legion_client.control.messages import Axis
from legion_client.machine.hysteresis import Latch, Pace
from legion_client.machine.presence import Key, State, presence, sane
from legion_client.machine.readings import GpuReading, Readings, key
from legion_client.machine.reasons import Active, Reason, ordered
from legion_client.machine.rules import View, candidates, card_bytes, disk_bytes, idle, memory_bytes, mode
from legion_client.settings import Settings, threads

AXES: tuple[Axis, ...] = ("cpu", "gpu", "network")
# A computer that slept, or a clock that was set, was not watched: such time counts as no more quiet than this.
GAP_S = 30.0


@dataclass(frozen=True, slots=True)
class GpuLimit:
    """What one card may do."""

    index: int
    share: float  # of the time, above 0 to 1
    power: float  # of the card's own power limit, on average; above 0 to 1
    memory: float  # of the card's memory, 0 to 1; the same for as long as the card is let in
    kind: str = "cuda"

    @property
    def key(self) -> str:
        """As in `GpuReading`."""
        return key(self.index, self.kind)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that training may take. None: there is no limit, or nobody knows one."""

    cpu_threads: int
    on_cpu: bool  # compute on the processor where no card may; otherwise its threads only feed the cards
    cpu_share: float  # of the time, above 0 to 1
    gpus: tuple[GpuLimit, ...] = ()
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    upload_bytes_per_s: int | None = None
    download_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """`reasons`: why it is less than everything, the most important first."""

    limits: Limits
    reasons: tuple[Active, ...] = ()
    free_gpus: tuple[int, ...] = ()  # cards whose memory must go at once
    network: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """`reasons`: all that hold, the most important first; never empty."""

    reasons: tuple[Active, ...]
    free_gpus: tuple[int, ...] = ()
    network: bool = True  # False: do not send what has been learned either
    free_memory: bool = False  # RAM must go at once too, which only the end of the engine does


Decision = Run | Pause


def decide(
    settings: Settings, state: State, readings: Readings, now: datetime, known: Sequence[Active] = ()
) -> tuple[Decision, State]:
    """The decision, and the state for the next one. Never raises, and asks nobody.

    `now` knows its zone (`schedule.local_time`). `known`: reasons that no sensor tells, such as an engine that fails.
    Meant to be called every second or two: time between two calls counts as watched, up to GAP_S.
    """
    passed_s = 0.0 if state.at is None else min(GAP_S, max(0.0, now.timestamp() - state.at))
    in_use, key, latch = presence(settings, readings, state, passed_s)
    view = View(settings, readings, now, state, in_use)
    active, latches = _latched(view, passed_s)
    paces = _paces(view, passed_s)
    effective = [one for one in [*known, *active] if _heeded(one, settings, now)]
    decision = _decision(view, effective, paces)
    after = State(
        at=now.timestamp(),
        latches=latches | {key: latch},
        paces={place: pace for place, pace in paces.items() if pace != Pace()},
        others_bytes=_let_in(view, decision),
    )
    return decision, after


def _latched(view: View, passed_s: float) -> tuple[list[Active], dict[Key, Latch]]:
    """The reasons that hold, by their condition or because it has not been gone for long."""
    active: list[Active] = []
    latches: dict[Key, Latch] = {}
    for one in candidates(view):
        key: Key = (one.active.reason, one.active.gpu)
        latch = view.state.latch(key).after(one.holds, passed_s, one.rise_s, one.fall_s)
        if latch != Latch():
            latches[key] = latch
        if latch.on and one.holds:
            active.append(one.active)
        elif latch.on:
            left_s = max(0.0, one.fall_s - (latch.against_s or 0.0))
            active.append(replace(one.active, over=True, until=round(view.now.timestamp() + left_s)))
    return active, latches


def _paces(view: View, passed_s: float) -> dict[int | None, Pace]:
    """How fast the processor (None) and each card compute, by their heat."""
    before, settings = view.state.paces, view.settings
    paces: dict[int | None, Pace] = {
        None: before.get(None, Pace()).after(sane(view.readings.cpu_celsius), settings.processor.slow_celsius, passed_s)
    }
    for gpu in view.readings.gpus:
        pace = before.get(gpu.index, Pace())
        paces[gpu.index] = pace.after(sane(gpu.celsius), settings.graphics.slow_celsius, passed_s)
    return paces


def _heeded(active: Active, settings: Settings, now: datetime) -> bool:
    """Whether it stops an axis that listens to it, or stops none at all."""
    return not active.rule.stops or bool(_stopped(active, settings, now))


def _stopped(active: Active, settings: Settings, now: datetime) -> frozenset[Axis]:
    rule = active.rule
    if rule.always_too:
        return rule.stops
    return frozenset(axis for axis in rule.stops if mode(settings.modes, axis, now) != "always")


def _decision(view: View, effective: list[Active], paces: Mapping[int | None, Pace]) -> Decision:
    settings = view.settings
    stops = {axis: [one for one in effective if axis in _stopped(one, settings, view.now)] for axis in AXES}
    gpus = [gpu for gpu in view.readings.gpus if not _of_card(stops["gpu"], gpu)]
    free_gpus = tuple(
        gpu.index for gpu in view.readings.gpus if any(one.rule.frees_memory for one in _of_card(stops["gpu"], gpu))
    )
    on_cpu = settings.processor.enabled and not stops["cpu"]
    network = not stops["network"]
    if network and (on_cpu or gpus):
        slower = _slower(view, paces, on_cpu, gpus)
        limits = _limits(view, paces, on_cpu, gpus)
        return Run(limits, ordered([*effective, *slower]), free_gpus)
    lacking = [] if on_cpu or gpus else _lacking(view)
    free_memory = any(one.reason is Reason.MEMORY for one in effective)
    return Pause(ordered([*effective, *lacking]), free_gpus, network, free_memory)


def _of_card(stops: list[Active], gpu: GpuReading) -> list[Active]:
    return [one for one in stops if one.gpu in (None, gpu.index)]


def _lacking(view: View) -> list[Active]:
    """What a computer without anything to compute on lacks, beside the rules that hold."""
    if view.settings.processor.enabled:
        return []
    return [Active(Reason.CPU_DISABLED), *([] if view.readings.gpus else [Active(Reason.NO_GPU)])]


def _slower(view: View, paces: Mapping[int | None, Pace], on_cpu: bool, gpus: list[GpuReading]) -> list[Active]:
    found = []
    processor, graphics = view.settings.processor, view.settings.graphics
    celsius = sane(view.readings.cpu_celsius)
    if paces[None].share < 1:
        found.append(_warm(Reason.CPU_WARM, None, celsius, processor.slow_celsius, paces[None]))
    for gpu in gpus:
        pace = paces[gpu.index]
        if pace.share < 1:
            found.append(_warm(Reason.GPU_WARM, gpu.index, sane(gpu.celsius), graphics.slow_celsius, pace))
    return found


def _warm(reason: Reason, gpu: int | None, celsius: float | None, slow_celsius: int, pace: Pace) -> Active:
    figures: dict[str, str | int] = {"celsius": round(celsius or 0), "pace": round(pace.share * 100)}
    over = celsius is None or celsius <= slow_celsius
    return Active(reason, gpu, figures if gpu is None else figures | {"gpu": gpu}, over=over)


def line_limits(settings: Settings, readings: Readings) -> tuple[int | None, int | None]:
    """Up and down, in bytes/s: also of what still moves while nothing is computed. None: no limit."""
    network, uplink = settings.network, sane(readings.uplink_bytes_per_s)
    uploads = [network.upload_kb_per_s * 1000] if network.upload_kb_per_s else []
    if uplink is not None and uplink > 0:
        # Whole kilobytes, and at least one: a limit that trembles would be set again every second.
        uploads.append(max(1, int(uplink) * network.upload_percent // 100_000) * 1000)
    return min(uploads, default=None), network.download_kb_per_s * 1000 or None


def _limits(view: View, paces: Mapping[int | None, Pace], on_cpu: bool, gpus: list[GpuReading]) -> Limits:
    processor, readings = view.settings.processor, view.readings
    percent = processor.time_idle_percent if idle(view) else processor.time_in_use_percent
    upload_bytes_per_s, download_bytes_per_s = line_limits(view.settings, readings)
    return Limits(
        cpu_threads=threads(view.settings, max(1, readings.physical_cores or 1), in_use=not idle(view)),
        on_cpu=on_cpu,
        cpu_share=round(percent / 100 * paces[None].share, 3),
        gpus=tuple(_gpu_limit(view, gpu, paces) for gpu in gpus),
        memory_bytes=memory_bytes(view),
        disk_bytes=disk_bytes(view.settings, readings)[0],
        upload_bytes_per_s=upload_bytes_per_s,
        download_bytes_per_s=download_bytes_per_s,
    )


def _gpu_limit(view: View, gpu: GpuReading, paces: Mapping[int | None, Pace]) -> GpuLimit:
    graphics = view.settings.graphics
    most = card_bytes(view.settings, gpu, view.state.others_bytes.get(gpu.index, gpu.memory_of_others_bytes))
    memory = graphics.memory_percent / 100 if most is None or not gpu.memory_bytes else most / gpu.memory_bytes
    # Heat of the processor is heat of the whole case.
    pace = min(paces[gpu.index].share, paces[None].share)
    return GpuLimit(
        index=gpu.index,
        share=round(graphics.time_percent / 100 * pace, 3),
        power=graphics.power_percent / 100,
        memory=round(memory, 3),
        kind=gpu.kind,
    )


def _let_in(view: View, decision: Decision) -> dict[int, int]:
    """What others held of each card when it was let in, for as long as it is."""
    if isinstance(decision, Pause):
        return {}
    allowed = {limit.index for limit in decision.limits.gpus}
    seen = {gpu.index: gpu.memory_of_others_bytes for gpu in view.readings.gpus}
    kept = {index: view.state.others_bytes.get(index, seen[index]) for index in allowed}
    return {index: held for index, held in kept.items() if held is not None}
