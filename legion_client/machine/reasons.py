"""Every reason to wait or to do less: its sentence, the setting behind it, what it stops. One place for all who say it.

Tray, window, command line, log and API show the same sentence. The enum's order is their importance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from legion_client.control.messages import Axis, Said, Why

Figures = Mapping[str, str | int]


class Reason(StrEnum):
    """The values are the slugs that programs see; the most important stands first."""

    SHUTTING_DOWN = "shutting-down"
    SETTINGS_UNUSABLE = "settings-unusable"
    ENGINE_FAILED = "engine-failed"
    PAUSED = "paused"
    SNOOZED = "snoozed"
    FINISHED = "finished"
    EXCLUSIVE_PROGRAM = "exclusive-program"
    EXCLUSIVE_GRAPHICS = "exclusive-graphics-program"
    GAME = "game"
    FULL_SCREEN = "full-screen"
    CPU_HOT = "processor-hot"
    GPU_HOT = "graphics-hot"
    DISK_FULL = "disk-full"
    DISK_SHARE = "disk-share-used"
    DISK_NEEDED = "disk-needed"
    MEMORY = "memory-needed"
    NETWORK_OFF = "network-off"
    METERED = "metered"
    VOLUME_USED = "volume-used"
    BATTERY = "on-battery"
    BATTERY_LOW = "battery-low"
    SCHEDULE = "outside-hours"
    CPU_OFF = "processor-off"
    GPU_OFF = "graphics-off"
    IN_USE = "in-use"
    GPU_IN_USE = "graphics-in-use"
    GPU_USE_UNKNOWN = "graphics-use-unknown"
    CPU_BUSY = "processor-busy"
    GPU_MEMORY = "graphics-memory-needed"
    GPU_LOST = "graphics-lost"
    GPU_EXCLUDED = "graphics-excluded"
    GPU_DISABLED = "graphics-disabled"
    CPU_DISABLED = "processor-disabled"
    NO_GPU = "no-graphics-card"
    CPU_WARM = "processor-warm"
    GPU_WARM = "graphics-warm"
    IDLE_UNKNOWN = "idle-unknown"
    USE_UNKNOWN = "use-unknown"
    GPU_PROBLEM = "graphics-problem"
    GPU_UNUSABLE = "graphics-unusable"
    SETTINGS_MISTAKE = "settings-mistake"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a reason means. `text` and `over` take the figures of one case with str.format."""

    text: str
    setting: str | None = None
    stops: frozenset[Axis] = frozenset()  # empty: it slows down, or only tells
    frees_memory: bool = False  # of the cards it stops, at once
    always_too: bool = False  # also where the volunteer said `always`
    over: str = ""  # said once the cause is gone, until it has been gone for long enough


ALL: frozenset[Axis] = frozenset(("cpu", "gpu", "network"))
COMPUTING: frozenset[Axis] = frozenset(("cpu", "gpu"))
CPU: frozenset[Axis] = frozenset(("cpu",))
GPU: frozenset[Axis] = frozenset(("gpu",))
NETWORK: frozenset[Axis] = frozenset(("network",))
_AGAIN = "Training goes on when that has been so for {quiet_s} s."

RULES: Mapping[Reason, Rule] = {
    Reason.SHUTTING_DOWN: Rule("This computer is shutting down.", None, COMPUTING, True, True),
    Reason.SETTINGS_UNUSABLE: Rule(
        "Training waits until the settings can be read: {problem}.", None, COMPUTING, True, True
    ),
    Reason.ENGINE_FAILED: Rule(
        "The training engine failed {times} times in a row: {problem}.", None, COMPUTING, True, True
    ),
    Reason.PAUSED: Rule("Paused by you.", "modes.paused", COMPUTING, True, True),
    Reason.SNOOZED: Rule("Paused by you for a while.", "modes.paused_until", COMPUTING, True, True),
    Reason.FINISHED: Rule("The round is finished, as you asked.", "modes.paused", COMPUTING, True, True),
    Reason.EXCLUSIVE_PROGRAM: Rule(
        "You gave this computer to {program} while it runs.",
        "programs.exclusive",
        ALL,
        True,
        True,
        f"No program that has this computer to itself runs any more. {_AGAIN}",
    ),
    Reason.EXCLUSIVE_GRAPHICS: Rule(
        "You gave the graphics cards to {program} while it runs.",
        "programs.exclusive_graphics",
        GPU,
        True,
        True,
        f"No program that has the graphics cards to itself runs any more. {_AGAIN}",
    ),
    Reason.GAME: Rule("A game runs.", "programs.pause_games", COMPUTING, True, False, f"The game is over. {_AGAIN}"),
    Reason.FULL_SCREEN: Rule(
        "A program covers the screen.",
        "programs.pause_full_screen",
        COMPUTING,
        True,
        False,
        f"No program covers the screen any more. {_AGAIN}",
    ),
    Reason.CPU_HOT: Rule(
        "The processor is at {celsius} °C: training waits until it is below {resume_celsius} °C.",
        "processor.pause_celsius",
        COMPUTING,
        False,
        True,
        f"The processor is no longer reported as too hot. {_AGAIN}",
    ),
    Reason.GPU_HOT: Rule(
        "Graphics card {gpu} is at {celsius} °C: it waits until it is below {resume_celsius} °C.",
        "graphics.pause_celsius",
        GPU,
        False,
        True,
        f"Graphics card {{gpu}} is no longer reported as too hot. {_AGAIN}",
    ),
    Reason.DISK_FULL: Rule(
        "Only {free_gb} GB of the disk are free, and {least_gb} GB shall stay free.",
        "disk.least_free_gb",
        ALL,
        False,
        True,
        f"The disk has space again. {_AGAIN}",
    ),
    Reason.DISK_SHARE: Rule(
        "Legion's folder holds {used_gb} GB, and {most_gb} GB are allowed.",
        "disk.most_gb",
        ALL,
        False,
        True,
        f"Legion's folder is small enough again. {_AGAIN}",
    ),
    Reason.DISK_NEEDED: Rule(
        "The run's data takes {needed_gb} GB of the disk, and {most_gb} GB may be used.",
        "disk.most_gb",
        ALL,
        False,
        True,
    ),
    Reason.MEMORY: Rule(
        "Training holds {held_gb} GB of memory, and only {most_gb} GB may be used now.",
        "memory.in_use_percent",
        COMPUTING,
        True,
        True,
        f"There is enough memory again. {_AGAIN}",
    ),
    Reason.NETWORK_OFF: Rule("You switched the network off for training.", "modes.network", NETWORK),
    Reason.METERED: Rule(
        "The connection costs by volume.",
        "network.pause_when_metered",
        NETWORK,
        over=f"The connection no longer costs by volume. {_AGAIN}",
    ),
    Reason.VOLUME_USED: Rule("This month's {month_gb} GB are used up ({used_gb} GB).", "network.month_gb", NETWORK),
    Reason.BATTERY: Rule(
        "This computer runs on its battery.",
        "power.pause_on_battery",
        COMPUTING,
        True,
        over=f"This computer is plugged in again. {_AGAIN}",
    ),
    Reason.BATTERY_LOW: Rule(
        "The battery holds {charge} %, and training needs {least} %.",
        "power.minimum_charge_percent",
        COMPUTING,
        True,
        over=f"The battery holds enough again. {_AGAIN}",
    ),
    Reason.SCHEDULE: Rule("It is outside the hours you chose.", "schedule.enabled", COMPUTING, True),
    Reason.CPU_OFF: Rule("You switched the processor off for training.", "modes.cpu", CPU),
    Reason.GPU_OFF: Rule("You switched graphics cards off for training.", "modes.gpu", GPU, True),
    Reason.IN_USE: Rule(
        "This computer is in use: training waits until it has been idle for {minutes} min.",
        "idle.only",
        COMPUTING,
        True,
    ),
    Reason.GPU_IN_USE: Rule(
        "This computer is in use: graphics cards wait until it has been idle for {minutes} min.",
        "graphics.in_use",
        GPU,
        True,
    ),
    Reason.GPU_USE_UNKNOWN: Rule(
        "Nothing tells whether this computer is in use: graphics cards wait unless they may compute in use, too.",
        "graphics.in_use",
        GPU,
        True,
    ),
    Reason.CPU_BUSY: Rule(
        "Other programs use {load} % of the processor.",
        "processor.busy_percent",
        CPU,
        over="Other programs use less of the processor again. Training goes on when that has been so for {busy_s} s.",
    ),
    Reason.GPU_MEMORY: Rule(
        "Other programs need the memory of graphics card {gpu}.",
        "graphics.yield_memory",
        GPU,
        True,
        True,
        over=f"Graphics card {{gpu}} has enough free memory again. {_AGAIN}",
    ),
    Reason.GPU_LOST: Rule("Graphics card {gpu} ({name}) no longer answers.", None, GPU, True, True),
    Reason.GPU_EXCLUDED: Rule("You excluded graphics card {gpu}.", "graphics.excluded", GPU, True, True),
    Reason.GPU_DISABLED: Rule("Graphics cards shall not be used.", "graphics.enabled", GPU, True, True),
    Reason.CPU_DISABLED: Rule("The processor shall not be used.", "processor.enabled", CPU, False, True),
    Reason.NO_GPU: Rule("No graphics card was found.", None, GPU, False, True),
    Reason.CPU_WARM: Rule(
        "The processor is at {celsius} °C: training runs at {pace} % of its speed.",
        "processor.slow_celsius",
        over="The processor was too warm: training runs at {pace} % of its speed and gets faster again.",
    ),
    Reason.GPU_WARM: Rule(
        "Graphics card {gpu} is at {celsius} °C: it runs at {pace} % of its speed.",
        "graphics.slow_celsius",
        over="Graphics card {gpu} was too warm: it runs at {pace} % of its speed and gets faster again.",
    ),
    Reason.IDLE_UNKNOWN: Rule(
        "This desktop does not report input: training keeps to the limits of a computer in use.",
        "processor.cores_in_use_percent",
    ),
    Reason.USE_UNKNOWN: Rule(
        "This desktop reports neither input nor load: training keeps to the limits of a computer in use.",
        "processor.cores_in_use_percent",
    ),
    Reason.GPU_PROBLEM: Rule("Graphics cards: {problem}."),
    Reason.GPU_UNUSABLE: Rule("Training cannot use the graphics card: {problem}.", None, GPU, True, True),
    Reason.SETTINGS_MISTAKE: Rule("Settings: {problem}."),
}
_ORDER = {reason: place for place, reason in enumerate(Reason)}


@dataclass(frozen=True, slots=True)
class Active:
    """A reason that holds now."""

    reason: Reason
    gpu: int | None = None  # the card it is about; None: all, or none
    figures: Figures = field(default_factory=dict)
    until: float | None = None  # s since 1970, when it is known to end
    over: bool = False  # its cause is gone, but not yet for long enough
    setting: str | None = None  # another one than the rule's

    @property
    def rule(self) -> Rule:
        return RULES[self.reason]

    @property
    def importance(self) -> tuple[int, int]:
        """The smaller, the more important."""
        return _ORDER[self.reason], -1 if self.gpu is None else self.gpu


def sentence(active: Active, tr: Callable[..., str] = str.format) -> str:
    """`tr` translates a text and fills the figures in; without one it is English."""
    text = active.rule.over if active.over and active.rule.over else active.rule.text
    return tr(text, **active.figures)


def said(active: Active) -> Said:
    """The sentence with its values apart."""
    text = active.rule.over if active.over and active.rule.over else active.rule.text
    return Said(text=text, values=dict(active.figures))


def why(active: Active, tr: Callable[..., str] = str.format) -> Why:
    """As tray, command line, log and API tell it."""
    return Why(
        said=(said(active),),
        slug=active.reason,
        sentence=sentence(active, tr),
        setting=active.setting or active.rule.setting,
        until=active.until,
    )


def ordered(active: list[Active]) -> tuple[Active, ...]:
    """The most important first."""
    return tuple(sorted(active, key=lambda one: one.importance))
