"""Three answers to "how much", each a handful of settings at once, and what settings mean in words."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from legion_client.settings.sections import Settings

Preset = Literal["light", "balanced", "full"]

# Balanced is the defaults; the others differ in the same settings, so that one preset undoes another.
_CHANGES: Mapping[Preset, Mapping[str, Mapping[str, Any]]] = {
    "light": {
        "idle": {"only": True},
        "processor": {"cores_in_use_percent": 25, "cores_idle_percent": 50, "spare_cores": 1},
        "graphics": {"in_use": False, "power_percent": 60, "memory_percent": 70},
        "memory": {"in_use_percent": 15, "idle_percent": 40},
    },
    "balanced": {
        "idle": {"only": False},
        "processor": {"cores_in_use_percent": 50, "cores_idle_percent": 100, "spare_cores": 1},
        "graphics": {"in_use": False, "power_percent": 100, "memory_percent": 90},
        "memory": {"in_use_percent": 25, "idle_percent": 60},
    },
    "full": {
        "idle": {"only": False},
        "processor": {"cores_in_use_percent": 75, "cores_idle_percent": 100, "spare_cores": 0},
        "graphics": {"in_use": True, "power_percent": 100, "memory_percent": 95},
        "memory": {"in_use_percent": 50, "idle_percent": 80},
    },
}
PRESETS: tuple[Preset, ...] = get_args(Preset)


def preset_values(preset: Preset) -> dict[str, Any]:
    """What `change` takes to choose it."""
    return {f"{section}.{key}": value for section, keys in _CHANGES[preset].items() for key, value in keys.items()}


def with_preset(settings: Settings, preset: Preset) -> Settings:
    """`settings` with this preset's in place of its own; all others stay."""
    sections = {
        section: getattr(settings, section).model_copy(update=dict(keys)) for section, keys in _CHANGES[preset].items()
    }
    return settings.model_copy(update=sections)


def preset_of(settings: Settings) -> Preset | None:
    """The one that `settings` follow; None: they are the volunteer's own."""
    return next((preset for preset in PRESETS if with_preset(settings, preset) == settings), None)


def threads(settings: Settings, physical_cores: int, in_use: bool) -> int:
    """Threads to compute with; one at least."""
    processor = settings.processor
    if in_use:
        return max(1, physical_cores * processor.cores_in_use_percent // 100)
    return max(1, min(physical_cores * processor.cores_idle_percent // 100, physical_cores - processor.spare_cores))


def effect(settings: Settings, physical_cores: int, card_watts: float | None = None) -> str:
    """What to expect, in three or four sentences: an estimate from the settings, nothing is measured.

    `card_watts`: the power limit of all graphics cards together, if there are any and their drivers tell.
    """
    idle = _cores(threads(settings, physical_cores, in_use=False), physical_cores)
    at_work = _cores(threads(settings, physical_cores, in_use=True), physical_cores)
    said = [f"While this computer is idle: {idle}, {_cards(settings, card_watts)}."]
    if settings.idle.only:
        said.append("While you use it: nothing.")
    elif settings.graphics.enabled and settings.graphics.in_use:
        said.append(f"While you use it: {at_work}, and the graphics card too.")
    else:
        said.append(f"While you use it: {at_work}, and no graphics card.")
    memory = settings.memory.idle_percent if settings.idle.only else settings.memory.in_use_percent
    said.append(f"At most {memory} % of the memory{'' if settings.idle.only else ' while you use it'}.")
    said.append(_noise(settings))
    return " ".join(said)


def _cores(given: int, physical_cores: int) -> str:
    return f"{given} of {physical_cores} cores"


def _cards(settings: Settings, card_watts: float | None) -> str:
    graphics = settings.graphics
    if not graphics.enabled:
        return "no graphics card"
    if card_watts is None:
        return f"graphics cards at {graphics.power_percent} % of their power"
    return f"graphics cards with about {card_watts * graphics.power_percent / 100:.0f} W on average"


def _noise(settings: Settings) -> str:
    """One word of the worst that a fan will do."""
    if settings.graphics.enabled and settings.graphics.in_use:
        return "Fans may be loud at any time."
    if settings.graphics.power_percent > 80 and settings.graphics.enabled:
        return "Fans may be loud while nobody is there."
    return "Fans stay rather quiet."
