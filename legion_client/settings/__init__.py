"""What the volunteer decided: `settings.toml`, its defaults, and how it is read, changed and described."""

from legion_client.settings.describe import Setting, chosen, describe, differences, parse, values
from legion_client.settings.file import SettingsFile, change, load, override, problems, read
from legion_client.settings.presets import PRESETS, Preset, effect, preset_of, preset_values, threads, with_preset
from legion_client.settings.sections import VERSION, Account, Network, Settings

__all__ = [
    "PRESETS",
    "VERSION",
    "Account",
    "Network",
    "Preset",
    "Setting",
    "Settings",
    "SettingsFile",
    "change",
    "chosen",
    "describe",
    "differences",
    "effect",
    "load",
    "override",
    "parse",
    "preset_of",
    "preset_values",
    "problems",
    "read",
    "threads",
    "values",
    "with_preset",
]
