"""What the volunteer can decide: every setting with its default, its limits, its unit and a line that explains it.

The defaults are those of a polite guest: on, but out of the way. `describe` makes lists and preferences of them.
"""

import platform
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from legion_client.settings import hours

VERSION = 1  # of the file; a higher one was written by a newer Legion

Switch = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Percent = Annotated[Whole, Field(ge=0, le=100)]
Share = Annotated[Whole, Field(ge=1, le=100)]
Celsius = Annotated[Whole, Field(ge=40, le=110)]
Gigabytes = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Rate = Annotated[Whole, Field(ge=0, le=100_000_000)]
Text = Annotated[str, Field(max_length=64)]
Mode = Literal["auto", "always", "never"]


def _with_zone(moment: datetime) -> datetime:
    # Systems cannot tell what the wall clock showed, or will, in any other year.
    if not 1971 <= moment.year <= 2200:
        raise ValueError(f"the year {moment.year} is too far away")
    # A time that is written without a zone is one of the wall clock.
    return moment if moment.tzinfo else moment.astimezone()


def _is_range(text: str) -> str:
    hours.parse(text)
    return text.strip()


Until = Annotated[datetime, AfterValidator(_with_zone)]
Ranges = tuple[Annotated[str, AfterValidator(_is_range)], ...]
Names = tuple[Annotated[str, Field(min_length=1, max_length=255)], ...]


def setting(default: Any, description: str, unit: str = "") -> Any:
    return Field(default=default, description=description, json_schema_extra={"unit": unit})


class Section(BaseModel, frozen=True, extra="forbid"):
    """One table of the file."""


class _Heat(Section, frozen=True):
    """Slower from `slow_celsius` on, nothing above `pause_celsius` until it is below `resume_celsius`."""

    slow_celsius: Celsius
    pause_celsius: Celsius
    resume_celsius: Celsius

    @model_validator(mode="after")
    def _in_order(self) -> "_Heat":
        if not self.resume_celsius < self.pause_celsius:
            raise ValueError("resume_celsius must be below pause_celsius")
        if not self.slow_celsius <= self.pause_celsius:
            raise ValueError("slow_celsius must not be above pause_celsius")
        return self


class Idle(Section, frozen=True):
    """When the computer counts as idle."""

    minutes: Annotated[Whole, Field(ge=1, le=1440)] = setting(
        3, "Without a key or pointer movement for so long, this computer counts as idle.", "minutes"
    )
    only: Switch = setting(False, "Compute only while this computer is idle.")


class Processor(_Heat, frozen=True):
    """What the processor gives."""

    enabled: Switch = setting(True, "Compute on the processor where no graphics card computes.")
    cores_in_use_percent: Share = setting(50, "Physical cores to compute with while you use this computer.", "%")
    cores_idle_percent: Share = setting(100, "Physical cores to compute with while this computer is idle.", "%")
    spare_cores: Annotated[Whole, Field(ge=0, le=1024)] = setting(
        1, "Cores left free while this computer is idle; one always computes.", "cores"
    )
    time_in_use_percent: Share = setting(100, "Share of the time to compute while you use this computer.", "%")
    time_idle_percent: Share = setting(100, "Share of the time to compute while this computer is idle.", "%")
    busy_percent: Percent = setting(
        0, "Pause the processor's work while other programs load it above this; 0: never.", "%"
    )
    busy_s: Annotated[Whole, Field(ge=0, le=3600)] = setting(
        30, "How long other programs must be above or below that before anything changes.", "s"
    )
    slow_celsius: Celsius = setting(83, "Compute more slowly while the processor is hotter.", "°C")
    pause_celsius: Celsius = setting(90, "Pause when the processor is hotter.", "°C")
    resume_celsius: Celsius = setting(78, "After such a pause, go on when the processor is cooler.", "°C")


class Graphics(_Heat, frozen=True):
    """What graphics cards give."""

    enabled: Switch = setting(True, "Compute on graphics cards.")
    in_use: Switch = setting(False, "Compute on graphics cards also while you use this computer.")
    excluded: tuple[Annotated[Whole, Field(ge=0, le=255)], ...] = setting(
        (), "Numbers of graphics cards never to compute on, from 0."
    )
    power_percent: Annotated[Whole, Field(ge=10, le=100)] = setting(
        100,
        "Power of a card to use: by the card's own limit where this computer permits it, else by rests in between.",
        "%",
    )
    time_percent: Share = setting(100, "Share of the time to compute on graphics cards.", "%")
    memory_percent: Share = setting(90, "Most of a card's memory to use.", "%")
    yield_memory: Switch = setting(True, "Free a card's memory when other programs need it.")
    free_memory_mb: Annotated[Whole, Field(ge=0, le=1_000_000)] = setting(
        512, "Memory of a card to leave free for other programs to grow into.", "MB"
    )
    slow_celsius: Celsius = setting(78, "Compute more slowly on a card that is hotter.", "°C")
    pause_celsius: Celsius = setting(83, "Pause a card that is hotter.", "°C")
    resume_celsius: Celsius = setting(75, "After such a pause, go on when the card is cooler.", "°C")


class Memory(Section, frozen=True):
    """How much RAM training may hold."""

    in_use_percent: Share = setting(25, "Most of the memory to hold while you use this computer.", "%")
    idle_percent: Share = setting(60, "Most of the memory to hold while this computer is idle.", "%")


class Power(Section, frozen=True):
    """Laptops."""

    pause_on_battery: Switch = setting(True, "Pause while this computer runs on its battery.")
    minimum_charge_percent: Percent = setting(
        50, "If computing on the battery is allowed, pause when it holds less than this.", "%"
    )


class Programs(Section, frozen=True):
    """Programs that go first."""

    exclusive: Names = setting((), "Names of programs that have this computer to themselves while they run.")
    exclusive_graphics: Names = setting((), "Names of programs that have the graphics cards to themselves.")
    pause_full_screen: Switch = setting(True, "Pause while a program covers the screen.")
    pause_games: Switch = setting(True, "Pause while the system says that a game runs.")
    resume_after_s: Annotated[Whole, Field(ge=0, le=3600)] = setting(
        60, "How long the cause of a pause must be gone before training goes on.", "s"
    )


class Schedule(Section, frozen=True):
    """When to compute, by the wall clock."""

    enabled: Switch = setting(False, "Compute only in the hours below.")
    monday: Ranges = setting(("00:00-24:00",), "Hours that begin on Monday, such as 22:00-07:00; none: not at all.")
    tuesday: Ranges = setting(("00:00-24:00",), "Hours that begin on Tuesday.")
    wednesday: Ranges = setting(("00:00-24:00",), "Hours that begin on Wednesday.")
    thursday: Ranges = setting(("00:00-24:00",), "Hours that begin on Thursday.")
    friday: Ranges = setting(("00:00-24:00",), "Hours that begin on Friday.")
    saturday: Ranges = setting(("00:00-24:00",), "Hours that begin on Saturday.")
    sunday: Ranges = setting(("00:00-24:00",), "Hours that begin on Sunday.")

    @property
    def week(self) -> tuple[tuple[str, ...], ...]:
        """From Monday on, as `date.weekday()` counts."""
        return (self.monday, self.tuesday, self.wednesday, self.thursday, self.friday, self.saturday, self.sunday)


class Network(Section, frozen=True):
    """What the connection gives."""

    pause_when_metered: Switch = setting(True, "Pause while the connection costs by volume.")
    upload_percent: Share = setting(80, "Most of the measured upload speed to use.", "%")
    upload_kb_per_s: Rate = setting(0, "Fastest upload; 0: no limit.", "kB/s")
    download_kb_per_s: Rate = setting(0, "Fastest download; 0: no limit.", "kB/s")
    leave_room: Switch = setting(True, "Slow down while what Legion moves holds up others on the line.")
    port_mapping: Switch = setting(
        False, "Ask your router to open a port (NAT-PMP, UPnP), so that other members reach this computer directly."
    )
    relay: Literal["auto", "always", "never"] = setting(
        "auto", "Be reached through a relay: auto where the server cannot reach this computer, always, or never."
    )
    month_gb: Gigabytes = setting(0.0, "Most to send and receive in a calendar month; 0: no limit.", "GB")


class Disk(Section, frozen=True):
    """What Legion's folder may hold."""

    most_gb: Gigabytes = setting(20.0, "Most disk space to use; 0: no limit but those below.", "GB")
    least_free_gb: Gigabytes = setting(5.0, "Disk space to leave free.", "GB")
    most_percent: Share = setting(50, "Most of the disk to use.", "%")


class Modes(Section, frozen=True):
    """Set by the tray and by commands such as `pause`; a time that has passed ends what it belongs to."""

    paused: Switch = setting(False, "Paused by you.")
    paused_until: Until | None = setting(None, "When that ends; without a time, when you resume.")
    cpu: Mode = setting("auto", "The processor: auto follows the rules, always ignores all but your programs and heat.")
    cpu_until: Until | None = setting(None, "When the processor is back to auto.")
    gpu: Mode = setting("auto", "Graphics cards: auto, always or never.")
    gpu_until: Until | None = setting(None, "When graphics cards are back to auto.")
    network: Mode = setting("auto", "The network: auto, always or never; without it nothing is trained.")
    network_until: Until | None = setting(None, "When the network is back to auto.")


class Account(Section, frozen=True):
    """Who gets the credit; nothing of it is needed."""

    nickname: Text = setting("", "Claimed at the server, for its public lists; empty: you are not named.")
    team: Text = setting("", "Team that is asked to take you in, by its name; needs a nickname; empty: none.")


class Settings(Section, frozen=True):
    """`settings.toml`. A missing file means the defaults; command line options override both."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default_factory=lambda: _host_name(),
        description="What the operator sees; by itself, this computer's name.",
    )
    listen_host: str | None = setting(
        None, "Address at which other members reach this computer; by itself, the one it reaches the server from."
    )
    listen_port: Annotated[Whole, Field(ge=0, le=65535)] = setting(0, "Port for other members; 0: any free port.")
    idle: Idle = Idle()
    processor: Processor = Processor()
    graphics: Graphics = Graphics()
    memory: Memory = Memory()
    power: Power = Power()
    programs: Programs = Programs()
    schedule: Schedule = Schedule()
    network: Network = Network()
    disk: Disk = Disk()
    modes: Modes = Modes()
    account: Account = Account()


def _host_name() -> str:
    return platform.node()[:64] or "unnamed"
