"""What the sensors say about this computer at one moment. Whatever it does not tell is None, and stops nobody."""

from dataclasses import dataclass, field
from typing import Literal


def key(index: int, kind: str) -> str:
    """What an engine's card is called: its number, or its kind where torch knows only one of that kind."""
    return str(index) if kind == "cuda" else kind


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One graphics card, as its driver shows it."""

    index: int
    name: str
    celsius: float | None = None
    watts: float | None = None
    load: float | None = None  # 0 to 1, of everybody
    memory_bytes: int | None = None
    memory_of_others_bytes: int | None = None  # held by other programs
    driver: str | None = None
    # What our engine holds of this card, or held when it last computed: we yield when this no longer fits.
    engine_memory_bytes: int | None = None
    kind: Literal["cuda", "mps", "xpu"] = "cuda"  # as torch names it
    lost: bool = False  # it was there before and no longer answers; everything else is unknown


@dataclass(frozen=True, slots=True)
class Readings:
    """All of it but the time."""

    idle_s: float | None = None  # since the last key or pointer movement
    on_battery: bool | None = None
    battery_percent: float | None = None  # 0 to 100; None without a battery
    cpu_celsius: float | None = None  # the hottest core or package
    cpu_load_of_others: float | None = None  # 0 to 1 of all cores, without our own processes
    memory_bytes: int | None = None
    memory_of_others_bytes: int | None = None  # in use, without our own processes
    engine_memory_bytes: int | None = None  # RAM that our engine holds, or held when it last computed
    physical_cores: int | None = None  # limits are a share of them
    free_disk_bytes: int | None = None  # where our home folder lies
    used_disk_bytes: int | None = None  # by our home folder
    disk_bytes: int | None = None  # size of the file system with our home folder: one limit is a share of it
    programs: frozenset[str] = frozenset()  # names of running programs, in lower case, without a path or ".exe"
    full_screen: bool | None = None  # some program covers a screen
    game: bool | None = None  # the system knows that a game runs (GameMode, a Direct3D program in exclusive mode)
    metered: bool | None = None  # the connection costs by volume
    month_bytes: int | None = None  # that we sent and received in this calendar month
    uplink_bytes_per_s: float | None = None  # measured; the upload limit is a share of it
    gpus: tuple[GpuReading, ...] = field(default=())
    gpu_problem: str | None = None  # one sentence for people: a driver that fails, a card that is lost
