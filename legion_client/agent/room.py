"""What the run's data may take of the disk: decided by the volunteer, asked before a download begins."""

from collections.abc import Callable
from dataclasses import dataclass

from legion_client.machine.readings import Readings
from legion_client.machine.reasons import Active, Reason
from legion_client.machine.rules import GB, disk_bytes
from legion_client.settings import Settings


@dataclass(frozen=True, slots=True)
class Need:
    """Of the run's data; `missing_bytes` are not here yet."""

    size_bytes: int
    missing_bytes: int


@dataclass
class Room:
    """Belongs to the event loop's thread. None: no limit, or nobody knows."""

    most_bytes: int | None = None  # of data
    spare_bytes: int | None = None  # of the disk, above what shall stay free
    need: Need | None = None  # for which there was no room
    on_change: Callable[[], None] = lambda: None  # `need` is another

    def needs(self, need: Need | None) -> None:
        """None: nothing, or what was needed fits."""
        if need != self.need:
            self.need = need
            self.on_change()

    def lacking(self) -> Active | None:
        """The reason to wait, as long as there is no room for what is needed."""
        need = self.need
        if need is None:
            return None
        if self.most_bytes is not None and need.size_bytes > self.most_bytes:
            return _active(need, self.most_bytes, None)
        if self.spare_bytes is not None and need.missing_bytes > self.spare_bytes:
            return _active(need, need.size_bytes - need.missing_bytes + self.spare_bytes, "disk.least_free_gb")
        return None

    def measure(self, settings: Settings, readings: Readings) -> None:
        """What the rules and the disk leave now."""
        self.most_bytes = disk_bytes(settings, readings)[0]
        free = readings.free_disk_bytes
        self.spare_bytes = None if free is None else max(0, free - int(settings.disk.least_free_gb * GB))


def _active(need: Need, most_bytes: int, setting: str | None) -> Active:
    figures = {"needed_gb": f"{need.size_bytes / GB:.1f}", "most_gb": f"{most_bytes / GB:.1f}"}
    return Active(Reason.DISK_NEEDED, figures=figures, setting=setting)
