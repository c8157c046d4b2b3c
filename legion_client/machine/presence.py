"""What the policy remembers from one decision to the next, and whether somebody uses this computer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from legion_client.machine.hysteresis import Latch, Pace
from legion_client.machine.readings import Readings
from legion_client.settings import Settings

Key = tuple[str, int | None]  # of a latch: what it is about, and which card

PRESENCE: Key = ("presence", None)
LOAD: Key = ("load", None)
# An idle time that trembles at its limit is nobody at the keys.
SETTLE_S = 5.0
ABSURD = 1e12  # of seconds, degrees, bytes a second
BUSY_PERCENT = 60  # the load of other programs that means use, where the volunteer has chosen none


@dataclass(frozen=True, slots=True)
class State:
    """Goes into a decision and comes out of it changed; an empty one knows nothing of before."""

    at: float | None = None  # of the last decision, s since 1970
    latches: Mapping[Key, Latch] = field(default_factory=dict)
    paces: Mapping[int | None, Pace] = field(default_factory=dict)  # by card; None: the processor
    # Bytes of each card that other programs held when it was let in: what we may take does not change under the engine.
    others_bytes: Mapping[int, int] = field(default_factory=dict)

    def latch(self, key: Key) -> Latch:
        return self.latches.get(key, Latch())


def presence(settings: Settings, readings: Readings, state: State, passed_s: float) -> tuple[bool | None, Key, Latch]:
    """Whether the computer is in use, None if nothing tells; with the latch that remembers it.

    Where the desktop does not report input, much load of other programs means use. Little of it means nothing: who
    reads or writes loads no processor.
    """
    idle_s = sane(readings.idle_s)
    if idle_s is not None:
        latch = state.latch(PRESENCE).after(idle_s < settings.idle.minutes * 60, passed_s, 0.0, SETTLE_S)
        return latch.on, PRESENCE, latch
    load = sane(readings.cpu_load_of_others)
    if load is None:
        return None, LOAD, Latch()
    busy_percent, busy_s = settings.processor.busy_percent or BUSY_PERCENT, settings.processor.busy_s
    latch = state.latch(LOAD).after(load * 100 > busy_percent, passed_s, busy_s, busy_s)
    return latch.on or None, LOAD, latch


def sane(value: float | None) -> float | None:
    """Sensors that break tell NaN, infinity or something absurd: they know nothing."""
    return value if value is not None and abs(value) < ABSURD else None
