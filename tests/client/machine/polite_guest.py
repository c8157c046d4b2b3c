"""A computer that nobody uses and that nothing speaks against, and decisions about it, for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from legion_client.machine.policy import Decision, decide
from legion_client.machine.presence import State
from legion_client.machine.readings import GpuReading, Readings
from legion_client.machine.reasons import Reason
from legion_client.settings import Settings

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday
GIB, GB = 2**30, 10**9
CARD = GpuReading(0, "Card", celsius=60, memory_bytes=24 * GIB, memory_of_others_bytes=GIB)
# Nobody is there, and nothing speaks against anything.
QUIET = Readings(
    idle_s=3600,
    on_battery=False,
    cpu_celsius=50,
    cpu_load_of_others=0.02,
    memory_bytes=32 * GIB,
    memory_of_others_bytes=4 * GIB,
    physical_cores=8,
    free_disk_bytes=500 * GB,
    used_disk_bytes=GB,
    disk_bytes=1000 * GB,
    full_screen=False,
    game=False,
    metered=False,
    month_bytes=0,
    gpus=(CARD,),
)


def with_values(**values: Any) -> Settings:
    """`section__key` in place of the default."""
    document: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.partition("__")
        document.setdefault(section, {})[key] = value
    return Settings.model_validate(document)


def first(readings: Readings, settings: Settings | None = None) -> Decision:
    return decide(settings or Settings(), State(), readings, NOW)[0]


def reasons_of(decision: Decision) -> list[Reason]:
    return [one.reason for one in decision.reasons]


class Watch:
    """Decisions one after the other, a second apart if nothing else is said."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.now, self.state = NOW, State()

    def see(self, readings: Readings, after_s: float = 1.0) -> Decision:
        self.now += timedelta(seconds=after_s)
        decision, self.state = decide(self.settings, self.state, readings, self.now)
        return decision

    def seconds_until(self, wanted: type, readings: Readings, most_s: int = 1000) -> int:
        return next(second for second in range(1, most_s) if isinstance(self.see(readings), wanted))
